"""How fast the API answers, on a real Postgres and Redis, with 100,000 jobs in the database.

    python -m bench.service --check            all parts, about 3 minutes
    python -m bench.service --parts jobs,post  some of: jobs, post, events, pages

jobs: GET /jobs/{id} at 500 a second. post: POST /search at 20 a second. events: 50 clients watch a
job that runs. pages: all jobs, page by page. The API is one uvicorn process as `sparsevit up` starts
it, and the load comes from a second process (`bench.service_client`). They share the machine's cores
with the servers, so what each of them took of these is printed, too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
from sqlalchemy import Engine

from bench.common import Check, arguments, finish, table
from bench.service_client import Load, Request, http_request, open_loop, walk, watch
from bench.service_rows import BODY, fill, write_events
from service.db.session import make_engine
from service.embedded.accounts import temporary_home
from service.embedded.stack import OWNER, Stack, StackOptions

PARTS = ("jobs", "post", "events", "pages")
FOLDER = Path("runs/service")
GET_RATE, GET_MS = 500.0, 50.0
POST_RATE, POST_MS = 20.0, 200.0
CLIENTS, EVENT_RATE, EVENT_MS = 50, 4.0, 1000.0
PAGE, PAGE_MS = 100, 50.0
MOST_MB = 200.0
CONNECT_SECONDS = 5.0
OPEN_JOBS = "100000"


@dataclass(frozen=True)
class Service:
    """The service that runs: its API's port and processes, a key, and what the database holds."""

    port: int
    api: psutil.Process
    servers: list[psutil.Process]
    key: str
    engine: Engine
    running: str
    ended: list[str]
    generator: ProcessPoolExecutor


@dataclass(frozen=True)
class Found:
    """What a part found. took: cores that each party took, by name. each_ms: milliseconds of
    processor that an answer took the API."""

    name: str
    load: Load
    target: float
    took: dict[str, float]
    each_ms: float

    def row(self) -> list[str]:
        lag = f"{self._p(self.load.lags, 99):.1f}" if self.load.lags else "-"
        middle, most = (f"{self._p(self.load.latencies, p):.1f}" for p in (50, 99))
        numbers = [f"{len(self.load.latencies):,}", str(len(self.load.errors)), middle, most]
        numbers += [f"{max(self.load.latencies):.1f}", f"{self.target:.0f}", lag]
        numbers.append(f"{self.each_ms:.2f}")
        return [self.name, *numbers, *(f"{cores:.2f}" for cores in self.took.values())]

    def checks(self) -> list[Check]:
        p99 = self._p(self.load.latencies, 99)
        return [
            Check(f"{self.name}: p99 ms", p99, self.target, at_most=True),
            Check(f"{self.name}: errors", len(self.load.errors), 0, at_most=True),
        ]

    def summary(self) -> dict[str, Any]:
        kept = {f"p{p}_ms": self._p(self.load.latencies, p) for p in (50, 90, 99, 100)}
        lags = {f"lag_p{p}_ms": self._p(self.load.lags, p) for p in (50, 99) if self.load.lags}
        errors = self.load.errors[:5]
        return {**kept, **lags, "count": len(self.load.latencies), "errors": errors} | {
            "cores": self.took,
            "api_ms": self.each_ms,
        }

    @staticmethod
    def _p(values: list[float], percent: int) -> float:
        return float(np.percentile(values, percent))


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to run, with commas")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each open loop")
    options = parser.parse_args()
    seconds = 5.0 if options.quick else options.seconds
    with running(2_000 if options.quick else 100_000) as service:
        found = [run(part, service, seconds) for part in options.parts.split(",")]
        megabytes = peak_mb(service.api)
    parties = list(found[0].took)
    columns = ["", "answers", "errors", "p50 ms", "p99 ms", "most ms", "target", "lag p99 ms"]
    columns += ["API ms each", *parties]
    print(f"\nOne API process, {os.cpu_count()} cores; on the right: cores taken")
    print(table(columns, [part.row() for part in found]))
    print(f"The API's memory at its highest: {megabytes:.0f} MB")
    checks = [check for part in found for check in part.checks()]
    checks.append(Check("API process: MB", megabytes, MOST_MB, at_most=True))
    results = {part.name: part.summary() for part in found} | {"api_mb": megabytes}
    finish("service", results, checks, options.check)


def run(part: str, service: Service, seconds: float) -> Found:
    """One part, by its name."""
    match part:
        case "jobs":
            return get_jobs(service, seconds)
        case "post":
            return post_searches(service, seconds)
        case "events":
            return watch_events(service, seconds)
        case "pages":
            return list_pages(service)
    raise SystemExit(f"no part {part}: choose of {', '.join(PARTS)}")


@contextmanager
def running(jobs: int) -> Iterator[Service]:
    """The service without workers, so many ended jobs in it, and a process for the load."""
    # A database that is given is somebody's: it is not to be filled.
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)
    os.environ["OPEN_JOBS"] = OPEN_JOBS
    spawned = multiprocessing.get_context("spawn")
    with (
        temporary_home(FOLDER.absolute()) as home,
        Stack(StackOptions(home=home, devices=()), print) as stack,
        ProcessPoolExecutor(1, mp_context=spawned) as generator,
    ):
        engine = make_engine(stack.addresses.database_url, pool_size=1)
        api, *servers = (
            _process(home, name) for name in ("run/api.pid", "postgres/pid", "redis/pid")
        )
        port = urlsplit(stack.addresses.url).port
        assert port is not None
        standing = fill(engine, OWNER, jobs)
        yield Service(port, api, servers, stack.key, engine, *standing, generator)
        engine.dispose()


def _process(home: Path, name: str) -> psutil.Process:
    return psutil.Process(json.loads((home / name).read_text())["pid"])


def get_jobs(service: Service, seconds: float) -> Found:
    """Jobs picked at random, asked for as by clients that poll without ETags."""
    picked = random.Random(0).choices(service.ended, k=int(GET_RATE * (seconds + 1)))
    requests = [
        Request(http_request("GET", f"/jobs/{job_id}", service.key), 200, job_id.encode())
        for job_id in picked
    ]
    return _open_loop("GET /jobs/{id}, 500/s", service, requests, GET_RATE, GET_MS)


def post_searches(service: Service, seconds: float) -> Found:
    """Searches, each with an Idempotency-Key of its own."""
    body = json.dumps(BODY).encode()
    requests = [
        Request(
            http_request("POST", "/search", service.key, body, Idempotency_Key=uuid.uuid4().hex),
            *(202, b'"queued"'),
        )
        for _ in range(int(POST_RATE * (seconds + 1)))
    ]
    return _open_loop("POST /search, 20/s", service, requests, POST_RATE, POST_MS)


def _open_loop(
    name: str, service: Service, requests: list[Request], rate: float, target: float
) -> Found:
    def load() -> Load:
        warm_up = int(rate)  # connections are opened in the first second, here and there
        return service.generator.submit(open_loop, service.port, requests, rate, warm_up).result()

    return _observed(name, service, target, load)


def watch_events(service: Service, seconds: float) -> Found:
    """Every client must see every event, and none later than the target says."""

    def load() -> Load:
        start = time.time() + CONNECT_SECONDS
        watching: Future[tuple[Load, list[int]]] = service.generator.submit(
            watch, service.port, service.key, service.running, CLIENTS, start
        )
        time.sleep(CONNECT_SECONDS)
        written = write_events(
            service.engine, service.running, int(EVENT_RATE * seconds), EVENT_RATE
        )
        found, seen = watching.result()
        found.errors += [f"{one} of {written} events" for one in seen if one != written]
        return found

    return _observed(f"event delay, {CLIENTS} clients", service, EVENT_MS, load)


def list_pages(service: Service) -> Found:
    """Every job must be on one of the pages."""

    def load() -> Load:
        found, ids = service.generator.submit(walk, service.port, service.key, PAGE).result()
        missing = set(service.ended) - ids
        found.errors += [f"{len(missing)} jobs on no page"] if missing else []
        return found

    return _observed(f"GET /jobs, pages of {PAGE}", service, PAGE_MS, load)


def _observed(name: str, service: Service, target: float, load: Callable[[], Load]) -> Found:
    """Runs a load, and notes what it took of the cores."""
    before, start = _processor_seconds(service), time.perf_counter()
    found = load()
    seconds = time.perf_counter() - start
    spent = {name: after - before[name] for name, after in _processor_seconds(service).items()}
    busy = spent.pop("all")
    spent["generator"] = found.processor
    spent["others"] = max(0.0, busy - sum(spent.values()))
    each_ms = 1e3 * spent["API"] / found.answers
    cores = {name: taken / seconds for name, taken in spent.items()}
    return Found(name, found, target, cores, each_ms)


def _processor_seconds(service: Service) -> dict[str, float]:
    """Of the API, the servers, and all that runs on the machine."""
    times = psutil.cpu_times()
    return {
        "API": _of(service.api),
        "servers": sum(_of(each) for one in service.servers for each in _family(one)),
        "all": times.user + times.nice + times.system + times.irq + times.softirq,
    }


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _of(process: psutil.Process) -> float:
    times = process.cpu_times()
    # Of a server, too, what its processes took that have ended by now.
    return float(times.user + times.system + times.children_user + times.children_system)


def peak_mb(process: psutil.Process) -> float:
    """The most memory a process has had, in MB (1e6 bytes)."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError("the kernel does not tell of VmHWM")


if __name__ == "__main__":
    main()
