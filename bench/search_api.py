"""The API's answers about a job of many candidates, timed over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import uvicorn

from service.api.protocol import BoundedProtocol
from service.db.keys import KeyRepository
from service.db.session import make_engine, session_scope
from service.domain.records import Job
from service.main import create_app
from service.settings import Settings


def api(database_url: str, home: Path, job: Job, history: int) -> dict[str, float]:
    """Milliseconds of the API's answers about a job over HTTP: the 95th of 100."""
    with _client(database_url, home, job) as client:
        pages = f"/jobs/{job.id}/candidates?limit=100"
        first = int(client.get(pages).json()["data"][0]["id"].removeprefix("eval_"))
        paths = {
            "GET /jobs/{id}": f"/jobs/{job.id}",
            "GET /jobs": "/jobs",
            "GET /jobs/{id}/candidates, first page": pages,
            "GET /jobs/{id}/candidates, in the middle": f"{pages}&after=eval_{first + history // 2}",
        }
        return {name: _p95(client, path) for name, path in paths.items()}


@contextmanager
def _client(database_url: str, home: Path, job: Job) -> Iterator[httpx.Client]:
    """The API as it is served, by a thread of this process."""
    settings = Settings(
        database_url=database_url, redis_url="redis://127.0.0.1:1/0", sparsevit_home=home / "api"
    )
    engine = make_engine(database_url, pool_size=1)
    with session_scope(engine) as session:
        key = KeyRepository(session).create(job.owner, "bench")
    engine.dispose()
    options = {"http": BoundedProtocol, "log_level": "warning", "access_log": False}
    config = uvicorn.Config(create_app(settings), port=0, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)


def _p95(client: httpx.Client, path: str) -> float:
    milliseconds = []
    for _ in range(100):
        start = time.perf_counter()
        response = client.get(path)
        milliseconds.append(1e3 * (time.perf_counter() - start))
        assert response.status_code == 200, response.text
    return float(np.percentile(milliseconds, 95))
