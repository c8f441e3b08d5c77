"""Heads without end, over plain sockets: refused at 64 KiB, and the API goes on answering."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from service.api.protocol import MAX_HEAD_BYTES
from tests.service.api_server import Api

PIECE = b"x" * 4096
BEGUN = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"
CHUNKED = b"POST /search HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def connected(api: Api) -> Iterator[socket.socket]:
    address = urlsplit(api.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as client:
        yield client


def answer_to(api: Api, *parts: bytes) -> bytes:
    """What is answered to the last part until the connection is closed; the others have an answer
    each, which is waited for."""
    *first, last = parts
    with connected(api) as client:
        for part in first:
            client.sendall(part)
            assert client.recv(65536).startswith(b"HTTP/1.1 ")
        client.sendall(last)
        return b"".join(iter(lambda: client.recv(65536), b""))


def line(start: bytes) -> bytes:
    """A line that does not end, as far as it may come, and a byte."""
    return start + b"x" * (MAX_HEAD_BYTES + 1 - len(start))


def lines(start: bytes) -> bytes:
    """Lines that do not end."""
    more = (b"X-%d: %s\r\n" % (number, PIECE) for number in range(MAX_HEAD_BYTES // len(PIECE)))
    return (start + b"".join(more))[: MAX_HEAD_BYTES + 1]


@pytest.mark.parametrize(
    "parts",
    [
        (line(b""),),
        (line(b"GET /"),),
        (line(BEGUN),),
        (line(BEGUN + b"Cookie: "),),
        (lines(BEGUN),),
        (CHUNKED + b"1\r\n{\r\n0\r\n", line(b"X-Last: ")),
        (CHUNKED + b"1\r\n{\r\n0\r\n", lines(b"")),
        (CHUNKED, line(b"1;extension=")),
    ],
    ids=["method", "path", "name", "value", "headers", "trailer", "trailers", "extension"],
)
def test_what_does_not_end_is_cut_off(api: Api, parts: tuple[bytes, ...]) -> None:
    *_, last = answer_to(api, *parts).split(b"HTTP/1.1 ")
    assert last.startswith(b"400 ")
    assert api.nobody.get("/healthz").status_code == 200


def head_of(size: int) -> bytes:
    """A request whose line and headers have so many bytes, as they are counted."""
    counted = len("/healthz") + len("hosthere") + len("connectionclose") + len("x-long")
    filling = b"x" * (size - counted)
    return BEGUN + b"Connection: close\r\nX-Long: " + filling + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("size", "status"), [(MAX_HEAD_BYTES // 2, 200), (MAX_HEAD_BYTES + 1, 400)]
)
def test_a_head_is_refused_from_64_kib(api: Api, size: int, status: int) -> None:
    assert answer_to(api, head_of(size)).startswith(b"HTTP/1.1 %d " % status)


def test_a_long_body_does_not_count(api: Api) -> None:
    body = b'{"checkpoint": "' + b"x" * (MAX_HEAD_BYTES - 100) + b'"}'
    head = f"POST /search HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {api.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += "Connection: close\r\n\r\n"
    assert answer_to(api, head.encode() + body).startswith(b"HTTP/1.1 422 ")


def test_what_follows_a_body_is_no_header(api: Api) -> None:
    """In one packet, so that it is there before the application looks."""
    head = CHUNKED.replace(
        b"\r\n\r\n", b"\r\nContent-Type: application/json\r\nConnection: close\r\n"
    )
    key = f"Authorization: Bearer {api.key}\r\n".encode()
    piece = b"2\r\n{}\r\n0\r\n"
    assert answer_to(api, head + key + b"\r\n" + piece + b"\r\n").startswith(b"HTTP/1.1 422 ")
    assert answer_to(api, head + b"\r\n" + piece + key + b"\r\n").startswith(b"HTTP/1.1 401 ")


def test_one_connection_takes_many_requests(api: Api) -> None:
    """Together they are longer than one may be."""
    with connected(api) as client:
        request = BEGUN + b"X-Long: " + PIECE + b"\r\n\r\n"
        for _ in range(2 * MAX_HEAD_BYTES // len(request)):
            client.sendall(request)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
