"""HTTP as pulls need it: connected to the IP that was checked, every redirect checked anew, and nothing decoded."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin

from localllm.contract.errors import InvalidRequestError
from localllm.contract.fetch import AddressRefusedError, PullError
from localllm.models.fetch.addresses import Address, AddressRules, Resolver, look_up, parse_address, permitted_ips

MAX_REDIRECTS = 5
CONNECT_SECONDS = 20.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
_USER_AGENT = "localllm"


Connect = Callable[[tuple[str, int], float], socket.socket]
"""Opens a socket to an IP address and port within so many seconds. Raises ``OSError``."""

_NO_TLS_OF_OURS = frozenset(
    {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"}
)
"""OpenSSL's words for what talks plain HTTP there, or a TLS that is too old: the next try would meet the same."""


class TransferBrokenError(Exception):
    """A connection failed in a way that may be gone at the next try."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


@dataclass(slots=True)
class Answer:
    """A response whose body has not been read yet. ``address`` is where it came from in the end."""

    address: Address
    response: http.client.HTTPResponse
    connection: http.client.HTTPConnection

    @property
    def status(self) -> int:
        """The status code."""
        return self.response.status

    def header(self, name: str) -> str | None:
        """Return a header field, None when it is absent."""
        return self.response.getheader(name)

    def read(self, n_bytes: int) -> bytes:
        """Return what is there, at most ``n_bytes``; b"" at the end. Raises :class:`TransferBrokenError`."""
        try:
            return self.response.read1(n_bytes)
        except TimeoutError:
            raise TransferBrokenError("no byte came for too long") from None
        except (OSError, http.client.HTTPException) as error:
            raise TransferBrokenError(f"the connection broke: {_reason(error)}") from None

    def close(self) -> None:
        """Give the connection up."""
        self.response.close()
        self.connection.close()


@dataclass(frozen=True, slots=True)
class Dialer:
    """Opens connections within the rules. ``silence_seconds`` is how long the other side may say nothing.

    ``resolver``, ``connect`` and ``tls`` are replaced by tests.
    """

    rules: AddressRules
    silence_seconds: float
    resolver: Resolver = look_up
    connect: Connect = socket.create_connection
    tls: Callable[[], ssl.SSLContext] = field(default=ssl.create_default_context)

    def open(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Send a GET and follow redirects, at most five.

        What of ``headers`` is a credential goes to the origin of ``url`` only: once another one was passed it is gone
        for good. Raises ``AddressRefusedError``, ``PullError`` and :class:`TransferBrokenError`.
        """
        address = parse_address(url, self.rules)
        sent = dict(headers)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._ask(address, sent)
            if answer.status not in _REDIRECTS:
                return answer
            location = answer.header("location")
            answer.close()
            following = self._following(address, location)
            if following.origin != address.origin:
                sent = {name: value for name, value in sent.items() if name.lower() not in _CREDENTIALS}
            address = following
        message = f"{address.host} redirects more than {MAX_REDIRECTS} times."
        raise PullError(message)

    def _following(self, address: Address, location: str | None) -> Address:
        if not location:
            message = f"{address.host} redirects without saying where to."
            raise PullError(message)
        try:
            return parse_address(urljoin(str(address), location), self.rules)
        except (InvalidRequestError, ValueError):
            message = f"{address.host} redirects to something that is no address."
            raise AddressRefusedError(message) from None

    def _ask(self, address: Address, headers: Mapping[str, str]) -> Answer:
        ips = permitted_ips(address, self.rules, self.resolver)
        connection = http.client.HTTPConnection(address.host, address.port)
        try:
            connection.sock = self._socket(address, ips)
            connection.putrequest("GET", address.target, skip_host=True, skip_accept_encoding=True)
            fixed = {"Host": address.authority, "User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
            for name, value in {**fixed, **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            return Answer(address, connection.getresponse(), connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                message = f"The certificate of {address.host} is not valid: {error.verify_message}."
                raise PullError(message) from None
            if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS_OF_OURS:
                message = (
                    f"{address.authority} does not speak HTTPS as we do: {error.reason.replace('_', ' ').lower()}."
                )
                raise PullError(message) from None
            if isinstance(error, ValueError) and not isinstance(
                error, OSError
            ):  # its text has the value, a token maybe
                message = f"A header that the source wants to send to {address.host} has characters that none can have."
                raise PullError(message) from None
            if isinstance(error, (OSError, http.client.HTTPException)):
                raise TransferBrokenError(f"{address.host} did not answer: {_reason(error)}") from None
            raise

    def _socket(self, address: Address, ips: list[str]) -> socket.socket:
        """Connect to the first IP that answers. The host's name is what the certificate must be for."""
        failure: OSError | None = None
        for ip in ips:
            try:
                plain = self.connect((ip, address.port), min(CONNECT_SECONDS, self.silence_seconds))
            except OSError as error:
                failure = error
                continue
            try:
                plain.settimeout(self.silence_seconds)
                if address.scheme == "http":
                    return plain
                return self.tls().wrap_socket(plain, server_hostname=address.host)
            except BaseException:
                plain.close()
                raise
        raise failure or OSError("no address")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it said nothing for too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
