"""The load on the API, from a process of its own: open loops, a walk along cursors, event streams.

A request of an open loop is due at a fixed time, whatever became of those before it, and its latency
counts from then: a service that stalls answers for all that was due meanwhile. HTTP is written and read
by hand, since on two cores a comfortable client would take the time that is to be measured.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

HOST = "127.0.0.1"
CONNECTIONS = 48
"""Kept open by an open loop; a request that finds none free waits, and its latency grows."""


@dataclass(frozen=True)
class Request:
    """A request as it is sent, and what its answer must be: its status, and a piece of it."""

    raw: bytes
    status: int
    piece: bytes


@dataclass
class Load:
    """What a loop found. In milliseconds: `latencies`, and `lags`, by how much later than due the
    requests were sent, which is the generator's own fault. answers: all of them, those of the warm-up
    too. processor: seconds of it this took."""

    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answers: int = 0
    seconds: float = 0.0
    processor: float = 0.0


def http_request(method: str, path: str, key: str, body: bytes = b"", **headers: str) -> bytes:
    """A request in HTTP/1.1. headers: more of them, with _ for -."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Authorization: Bearer {key}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def exchange(self, raw: bytes) -> tuple[int, bytes]:
        """The status and body of the answer.

        Raises:
            OSError, EOFError: the connection was lost; the next exchange opens a new one.
        """
        try:
            reader, head = await self.send(raw)
            length = int(head.get(b"content-length", b"0"))
            return int(head[b""]), await reader.readexactly(length)
        except (OSError, EOFError):
            self.close()
            raise

    async def send(self, raw: bytes) -> tuple[asyncio.StreamReader, dict[bytes, bytes]]:
        """The head of the answer, its status under b"", and where its body is read from."""
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        self._writer.write(raw)
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        fields = {name.lower(): value.strip() for name, _, value in pairs}
        return self._reader, {**fields, b"": first.split(b" ", 2)[1]}

    def close(self) -> None:
        """Closes it."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def open_loop(port: int, requests: Sequence[Request], rate: float, warm_up: int) -> Load:
    """Sends `requests` evenly at `rate` a second. warm_up: so many at the start are not counted."""
    return asyncio.run(_open_loop(port, requests, rate, warm_up))


async def _open_loop(port: int, requests: Sequence[Request], rate: float, warm_up: int) -> Load:
    load = Load()
    idle: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(Connection(port))
    start, processor = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for number, request in enumerate(requests):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            told = load if number >= warm_up else Load()
            tasks.create_task(_one(idle, request, due, told))
    load.answers = len(requests)
    load.seconds = time.perf_counter() - start
    load.processor = time.process_time() - processor
    while not idle.empty():
        idle.get_nowait().close()
    return load


async def _one(idle: asyncio.Queue[Connection], request: Request, due: float, told: Load) -> None:
    told.lags.append(1e3 * (time.perf_counter() - due))
    connection = await idle.get()
    try:
        status, body = await connection.exchange(request.raw)
        if status != request.status or request.piece not in body:
            told.errors.append(f"{status} {body[:200]!r}")
    except (OSError, EOFError) as error:
        told.errors.append(type(error).__name__)
    told.latencies.append(1e3 * (time.perf_counter() - due))
    idle.put_nowait(connection)


def walk(port: int, key: str, limit: int) -> tuple[Load, set[str]]:
    """Every page of GET /jobs, one after the other as cursors force it to be; and the ids found."""
    return asyncio.run(_walk(port, key, limit))


async def _walk(port: int, key: str, limit: int) -> tuple[Load, set[str]]:
    load, found, after = Load(), set[str](), ""
    connection = Connection(port)
    start, processor = time.perf_counter(), time.process_time()
    while True:
        sent = time.perf_counter()
        path = f"/jobs?limit={limit}{after}"
        status, body = await connection.exchange(http_request("GET", path, key))
        load.latencies.append(1e3 * (time.perf_counter() - sent))
        page = json.loads(body)
        if status != 200:
            load.errors.append(f"{status} {body[:200]!r}")
            break
        found |= {job["id"] for job in page["data"]}
        if not page["has_more"]:
            break
        after = f"&after={page['next_cursor']}"
    load.answers = len(load.latencies)
    load.seconds = time.perf_counter() - start
    load.processor = time.process_time() - processor
    connection.close()
    return load, found


def watch(port: int, key: str, job_id: str, clients: int, start: float) -> tuple[Load, list[int]]:
    """So many clients watch a job until it ends: delays of the events written from `start` on (a time
    in seconds), by when all of them must be connected; and how many of these each has seen."""
    return asyncio.run(_watch(port, key, job_id, clients, start))


async def _watch(
    port: int, key: str, job_id: str, clients: int, start: float
) -> tuple[Load, list[int]]:
    load, began, processor = Load(), time.perf_counter(), time.process_time()
    raw = http_request("GET", f"/jobs/{job_id}/events", key)
    seen = await asyncio.gather(*(_client(port, raw, start, load) for _ in range(clients)))
    load.answers = len(load.latencies)
    load.seconds = time.perf_counter() - began
    load.processor = time.process_time() - processor
    return load, seen


async def _client(port: int, raw: bytes, start: float, load: Load) -> int:
    connection, seen = Connection(port), 0
    reader, head = await connection.send(raw)
    if head[b""] != b"200" or time.time() > start:
        load.errors.append(f"{head[b''].decode()}, connected {time.time() - start:.1f} s late")
    async for line in _lines(reader):
        if not line.startswith(b"data: "):
            continue
        now, written = time.time(), _written_at(line)
        if written >= start:
            load.latencies.append(1e3 * (now - written))
            seen += 1
    connection.close()
    return seen


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a chunked body; the API sends an event in one chunk."""
    while size := int(await reader.readline(), 16):
        chunk = await reader.readexactly(size + 2)
        for line in chunk.split(b"\n"):
            yield line


def _written_at(line: bytes) -> float:
    told = json.loads(line.removeprefix(b"data: "))
    return datetime.fromisoformat(told["created_at"]).timestamp()
