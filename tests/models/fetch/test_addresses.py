"""Which addresses may be reached: nothing private, nothing ambiguous, and never another IP than the checked one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.errors import InvalidRequestError, LocalLLMError
from localllm.contract.fetch import AddressRefusedError, PullError, RemoteFile
from localllm.models.fetch.addresses import AddressRules, is_public, parse_address, permitted_ips
from localllm.models.fetch.connection import Dialer
from tests.models.fetch.kit import FileServer, Pulling, good, model_bytes, redirect, serving

RULES = AddressRules()
DATA = model_bytes(4)

PRIVATE = [
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "192.0.0.8", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "::7f00:1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
    *("2002:7f00:1::", "2002:c0a8:101::1", "nonsense", ""),
]


@pytest.mark.parametrize("ip", PRIVATE)
def test_private_addresses_in_every_form(ip: str) -> None:
    assert not is_public(ip)


@pytest.mark.parametrize("ip", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses(ip: str) -> None:
    assert is_public(ip)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_inside_ipv6(ip: ipaddress.IPv4Address) -> None:
    assert is_public(f"::ffff:{ip}") == is_public(str(ip)) == is_public(f"64:ff9b::{ip}")


@pytest.mark.parametrize(
    "text",
    [
        *("https://a@b/x", "https://user:pass@host/x.gguf", "https://good.example@evil.example/x", "https://@b/x"),
        *("file:///etc/passwd", "ftp://host/x", "gopher://host/x", "http://host/x.gguf", "HTTP://host/x", "data://x/y"),
        *("https:\\\\host/x", "https://host\\@evil/x", "https://good.example\\.evil.example/x", "https:/host/x"),
        *("https://host/a b", "https://host/\r\nHost: evil", "https://host/\x00", "https://hö.example/x", "//host/x"),
        *("https://host:0/x", "https://host:65536/x", "https://host:99999999/x", "https://host:/x", "https://:80/x"),
        *("https://[::1/x", "https://[:::1]/x", "https://[fe80::1%25eth0]/x", "https://ho%73t/x", "https://./x"),
        *("", "https://", "https:///x", "x", "https://" + "a" * 9000),
    ],
)
def test_what_is_not_fetched(text: str) -> None:
    with pytest.raises((InvalidRequestError, AddressRefusedError)):
        parse_address(text, RULES)


def test_a_password_is_not_repeated_in_the_error() -> None:
    with pytest.raises(AddressRefusedError) as caught:
        parse_address("https://user:secret@host/x", RULES)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("https://Host.Example/a/b.gguf?c=d#e", ("https", "host.example", 443, "/a/b.gguf?c=d")),
        ("https://host:8443", ("https", "host", 8443, "/")),
        ("https://host?x=1", ("https", "host", 443, "/?x=1")),
        ("https://host./x", ("https", "host", 443, "/x")),
        ("https://[2606:4700::1111]:444/x", ("https", "2606:4700::1111", 444, "/x")),
        ("https://host/a@b:c", ("https", "host", 443, "/a@b:c")),
    ],
)
def test_what_is_understood(text: str, parts: tuple[Any, ...]) -> None:
    address = parse_address(text, RULES)
    assert (address.scheme, address.host, address.port, address.target) == parts
    assert parse_address(str(address), RULES) == address


@given(st.text(max_size=60))
def test_no_text_is_more_than_refused(text: str) -> None:
    for candidate in (text, f"https://{text}", f"https://host{text}"):
        try:
            address = parse_address(candidate, RULES)
        except (InvalidRequestError, AddressRefusedError):
            continue
        assert str(address).isascii() and "@" not in address.authority and "\\" not in str(address)


@pytest.mark.parametrize("entry", ["nas.lan", "NAS.lan", "nas.lan:8080"])
def test_http_is_for_listed_hosts_only(entry: str) -> None:
    rules = AddressRules(http_hosts=(entry,))
    assert parse_address("http://nas.lan:8080/x", rules).scheme == "http"
    with pytest.raises(AddressRefusedError, match="pull_http_hosts"):
        parse_address("http://other.lan:8080/x", rules)
    with pytest.raises(AddressRefusedError):
        parse_address("http://nas.lan.evil.example:8080/x", rules)


def test_a_configured_origin_may_be_private_and_only_that_one() -> None:
    rules = AddressRules(trusted_origins=("http://10.0.0.7:8080",))
    hub = parse_address("http://10.0.0.7:8080/x", rules)
    assert permitted_ips(hub, rules, lambda host, port: ["10.0.0.7"]) == ["10.0.0.7"]
    with pytest.raises(AddressRefusedError):
        parse_address("http://10.0.0.7:8081/x", rules)


@pytest.mark.parametrize("ips", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::ffff:192.168.0.1"]])
def test_a_host_with_any_private_address_is_refused(ips: list[str]) -> None:
    address = parse_address("https://host.example/x", RULES)
    with pytest.raises(AddressRefusedError, match="pull_private_hosts"):
        permitted_ips(address, RULES, lambda host, port: ips)
    assert permitted_ips(address, AddressRules(private_hosts=True), lambda host, port: ips) == ips


def test_a_host_that_is_not_found() -> None:
    def fails(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(PullError, match=r"'host\.example' can't be found: Name or service not known"):
        permitted_ips(parse_address("https://host.example/x", RULES), RULES, fails)


def test_the_ip_that_was_checked_is_the_one_that_is_connected_to() -> None:
    """A second look-up may answer otherwise (DNS rebinding); there is none."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    reached = []

    def connect(place: tuple[str, int], timeout: float) -> socket.socket:
        reached.append(place)
        raise ConnectionRefusedError(111, "refused")

    dialer = Dialer(RULES, 1.0, resolver=lambda host, port: answers.pop(0), connect=connect)
    with pytest.raises(Exception, match="refused"):
        dialer.open("https://host.example/x", {})
    assert reached == [("93.184.216.34", 443)]


def test_a_name_that_turns_private_between_two_tries_is_refused(pulling: Pulling) -> None:
    answers = [["93.184.216.34"], ["127.0.0.1"]]

    def connect(place: tuple[str, int], timeout: float) -> socket.socket:
        assert place[0] != "127.0.0.1"
        raise ConnectionRefusedError(111, "refused")

    pulling.dialer = lambda rules, seconds: Dialer(
        rules, seconds, resolver=lambda host, port: answers.pop(0), connect=connect
    )
    with pytest.raises(AddressRefusedError):
        pulling.run(RemoteFile("x.gguf", url="https://host.example/x.gguf"), private_hosts=False)


def test_this_machine_is_refused_unless_it_is_allowed(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    with pytest.raises(AddressRefusedError, match="private or local network"):
        pulling.pull(private_hosts=False)
    assert server.requests == []
    pulling.pull()


@pytest.mark.parametrize(
    "location",
    [
        *("file:///etc/passwd", "ftp://127.0.0.1/x", "http://localhost.evil:1/x", "https://user@127.0.0.1/x"),
        *("http:\\\\127.0.0.1\\x", "//[::1", "http://a b/", "https://127.0.0.1:0/"),
    ],
)
def test_redirects_elsewhere_are_refused(pulling: Pulling, server: FileServer, location: str) -> None:
    server.routes["/tiny.gguf"] = redirect(location)
    with pytest.raises(AddressRefusedError):
        pulling.pull()
    assert len(server.requests) == 1
    assert pulling.models == {}


def test_redirects_to_private_addresses_are_refused(server: FileServer) -> None:
    """The first host is a configured one; what it redirects to is not, and is not even asked."""
    for target in ("http://169.254.169.254/latest/meta-data", "http://127.0.0.1:1/x", "https://10.0.0.1/x"):
        server.routes["/x"] = redirect(target)
        rules = AddressRules(trusted_origins=(server.origin,), http_hosts=("169.254.169.254", "127.0.0.1", "10.0.0.1"))
        with pytest.raises(AddressRefusedError, match="private or local network"):
            Dialer(rules, 5.0).open(f"{server.origin}/x", {})


def test_five_redirects_are_followed_and_a_sixth_is_not(pulling: Pulling, server: FileServer) -> None:
    for number in range(7):
        server.routes[f"/{number}"] = redirect(f"/{number + 1}", 307)
    server.routes["/tiny.gguf"] = redirect("/3")
    server.routes["/7"] = good(DATA)
    pulling.pull()
    assert [request.path for request in server.requests] == ["/tiny.gguf", "/3", "/4", "/5", "/6", "/7"]
    server.routes["/tiny.gguf"] = redirect("/2")
    with pytest.raises(PullError, match="redirects more than 5 times"):
        pulling.pull(source="test:other", model_id="other")


@pytest.mark.parametrize("header", ["Authorization", "authorization", "Cookie"])
def test_credentials_stay_with_their_origin(pulling: Pulling, server: FileServer, header: str) -> None:
    with serving() as other:
        server.routes |= {"/a": redirect("/b"), "/b": redirect(f"{other.origin}/c"), "/back": good(DATA)}
        other.routes["/c"] = redirect(f"{server.origin}/back")
        file = RemoteFile("a.gguf", url=f"{server.origin}/a", headers={header: "Bearer token"})
        pulling.run(file)
        sent = {request.path: request.headers.get(header.lower()) for request in server.requests + other.requests}
    assert sent == {"/a": "Bearer token", "/b": "Bearer token", "/c": None, "/back": None}


def test_credentials_do_not_go_to_another_host_name_of_the_same_machine(pulling: Pulling, server: FileServer) -> None:
    port = server.server_address[1]
    server.routes |= {"/a": redirect(f"http://localhost:{port}/b"), "/b": good(DATA)}
    pulling.policy = replace(pulling.policy, http_hosts=("127.0.0.1", "localhost"))
    pulling.run(RemoteFile("a.gguf", url=f"{server.origin}/a", headers={"Authorization": "Bearer token"}))
    assert "authorization" not in server.requests[1].headers


def test_a_redirect_without_a_place_is_an_error(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = lambda handler, request: handler.head(302, {"Content-Length": "0"})
    with pytest.raises(LocalLLMError, match="without saying where to"):
        pulling.pull()


def test_a_header_that_can_not_be_sent_is_an_error_of_the_source(pulling: Pulling, server: FileServer) -> None:
    file = RemoteFile("a.gguf", url=f"{server.origin}/a", headers={"Authorization": "x\r\nHost: evil"})
    with pytest.raises(LocalLLMError):
        pulling.run(file)
    assert server.requests == []
