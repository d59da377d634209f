"""TLS to the IP that was checked: the certificate must be the host's, and its name is what the server is told."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.contract.fetch import PullError, RemoteFile
from localllm.models.fetch.addresses import AddressRules
from localllm.models.fetch.connection import Dialer
from tests.models.fetch.kit import FileServer, Pulling, good, model_bytes, serving

PEM = Path(__file__).parent / "tls" / "models_example.pem"
DATA = model_bytes(64)


@pytest.fixture
def names() -> list[str | None]:
    """Host names that clients asked for in their TLS handshake."""
    return []


@pytest.fixture
def tls_server(names: list[str | None]) -> Iterator[FileServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    context.sni_callback = lambda sock, name, context: names.append(name)
    with serving(context) as server:
        server.routes["/tiny.gguf"] = good(DATA)
        yield server


def dial(server: FileServer, pulling: Pulling, *, trusted: bool = True) -> list[tuple[str, int]]:
    """Let every name lead to the server; return the places that are connected to, as they come."""
    reached: list[tuple[str, int]] = []

    def connect(place: tuple[str, int], timeout: float) -> socket.socket:
        reached.append(place)
        return socket.create_connection(("127.0.0.1", server.server_address[1]), timeout)

    def tls() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(PEM) if trusted else None)

    def dialer(rules: AddressRules, seconds: float) -> Dialer:
        return Dialer(rules, seconds, resolver=lambda host, port: ["93.184.216.34"], connect=connect, tls=tls)

    pulling.dialer = dialer
    return reached


def test_the_host_is_named_and_its_checked_ip_is_connected_to(
    pulling: Pulling, tls_server: FileServer, names: list[str | None]
) -> None:
    reached = dial(tls_server, pulling)
    pulling.run(RemoteFile("tiny.gguf", url="https://models.example/tiny.gguf"), private_hosts=False)
    assert pulling.models == {"chat/tiny.gguf": DATA}
    assert reached == [("93.184.216.34", 443)]
    assert names == ["models.example"]
    assert tls_server.requests[0].headers["host"] == "models.example"


def test_a_certificate_of_another_host_is_refused(pulling: Pulling, tls_server: FileServer) -> None:
    dial(tls_server, pulling)
    with pytest.raises(PullError, match=r"The certificate of other\.example is not valid: Hostname mismatch"):
        pulling.run(RemoteFile("tiny.gguf", url="https://other.example/tiny.gguf"), private_hosts=False)
    assert tls_server.requests == []
    assert pulling.pauses == [], "it will be no better at the next try"


def test_a_certificate_that_nobody_vouches_for_is_refused(pulling: Pulling, tls_server: FileServer) -> None:
    dial(tls_server, pulling, trusted=False)
    with pytest.raises(PullError, match="self-signed certificate"):
        pulling.run(RemoteFile("tiny.gguf", url="https://models.example/tiny.gguf"), private_hosts=False)
    assert tls_server.requests == []


def test_a_server_that_speaks_no_tls_is_told_at_once(pulling: Pulling) -> None:
    with serving() as plain:
        dial(plain, pulling)
        with pytest.raises(PullError, match=r"models\.example does not speak HTTPS as we do: "):
            pulling.run(RemoteFile("tiny.gguf", url="https://models.example/tiny.gguf"), private_hosts=False)
    assert pulling.pauses == [], "it will be no better at the next try"
