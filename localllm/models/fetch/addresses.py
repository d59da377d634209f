"""Which addresses a pull may reach: one parser, and a check of the very IP that is connected to."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localllm.contract.errors import InvalidRequestError
from localllm.contract.fetch import AddressRefusedError, PullError

DEFAULT_PORTS = {"https": 443, "http": 80}

_MAX_CHARACTERS = 8192
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?P<userinfo>[^/?#]*@)?"
    r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][^#]*)?"
    r"(?:#.*)?"
)
_UNFIT = re.compile(r"[^\x21-\x7e]|\\")
"""Controls, spaces and what is no ASCII; and the backslash, which some parsers take for a slash."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4"),
        *("64:ff9b:1::/48", "fec0::/10", "::/96"),
    )
)
"""Beside what ``ipaddress`` itself says is not global, which differs between releases of Python."""

Resolver = Callable[[str, int], Sequence[str]]
"""Host and port to IP addresses, best first. Raises ``OSError``."""


@dataclass(frozen=True, slots=True)
class Address:
    """A URL in its parts. ``host`` is in lower case, without brackets; ``target`` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what credentials belong to."""
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        return self.origin + self.target


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What may be reached beside public hosts by https.

    ``http_hosts`` ("nas.lan", "nas.lan:8080") may be asked without TLS. ``trusted_origins`` may be private and without
    TLS: whoever runs this machine configured them.
    """

    private_hosts: bool = False
    http_hosts: tuple[str, ...] = ()
    trusted_origins: tuple[str, ...] = ()

    def trusts(self, address: Address) -> bool:
        """Say whether the address is of an origin that was configured."""
        return address.origin in self.trusted_origins

    def allows_http(self, address: Address) -> bool:
        """Say whether the host may be asked without TLS."""
        names = {address.host, f"{address.host}:{address.port}", f"[{address.host}]:{address.port}"}
        return self.trusts(address) or not names.isdisjoint(name.lower() for name in self.http_hosts)


def parse_address(text: str, rules: AddressRules) -> Address:
    """Return the parts of a URL. What is not understood to the last character is refused.

    Raises ``InvalidRequestError`` for what is no URL, ``AddressRefusedError`` for one that pulls may not use.
    """
    found = _URL.fullmatch(text) if len(text) <= _MAX_CHARACTERS and not _UNFIT.search(text) else None
    if found is None:
        message = f"{_shown(text)} is no address that can be fetched; write it as https://host/path, percent-encoded."
        raise InvalidRequestError(message, param="source")
    scheme = found["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        message = f"{_shown(text)} has the scheme {scheme!r}, and only https can be fetched."
        raise AddressRefusedError(message)
    if found["userinfo"] is not None:
        message = f"The address at {found['host']} has a user name in it; addresses with one are not fetched."
        raise AddressRefusedError(message)
    port = int(found["port"]) if found["port"] else DEFAULT_PORTS[scheme]
    host = found["host"].lower().strip("[]").rstrip(".")
    if not host or not 0 < port < 65536 or (":" in host and not _is_ip(host)):
        message = f"{_shown(text)} has no host and port that can be connected to."
        raise InvalidRequestError(message, param="source")
    target = found["target"] or "/"
    address = Address(scheme, host, port, target if target.startswith("/") else f"/{target}")
    if scheme == "http" and not rules.allows_http(address):
        message = (
            f"{_shown(text)} is not fetched without TLS; use https, or add {address.host!r} to models.pull_http_hosts."
        )
        raise AddressRefusedError(message)
    return address


def permitted_ips(address: Address, rules: AddressRules, resolver: Resolver) -> list[str]:
    """Look the host up once and return the IP addresses to connect to, all of them checked.

    Raises ``AddressRefusedError`` when any of them is private: an honest host is not half in a private network.
    """
    try:
        ips = list(dict.fromkeys(resolver(address.host, address.port)))
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        message = f"The host {address.host!r} can't be found: {reason or error}. Check the name and the network."
        raise PullError(message) from None
    if not ips:
        message = f"The host {address.host!r} has no address."
        raise PullError(message)
    if not (rules.private_hosts or rules.trusts(address)):
        for ip in ips:
            if not is_public(ip):
                message = (
                    f"The host {address.host!r} is in a private or local network, from where nothing is fetched; "
                    f"set models.pull_private_hosts = true to allow it."
                )
                raise AddressRefusedError(message)
    return ips


def look_up(host: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(text: str) -> bool:
    """Say whether an IP address is one of the public internet, and so is every IPv4 address that it carries inside."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return all(_is_public(one) for one in (ip, *_embedded(ip)))


def _embedded(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that a mapped, translated or tunnelled IPv6 address stands for."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


def _is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped is not None or ip in _NAT64):
        return True  # what it carries decides
    if ip.is_multicast or ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_reserved:
        return False
    return ip.is_global and not any(ip in network for network in _REFUSED)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}…")
