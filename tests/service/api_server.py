"""A real API on a real port for tests: uvicorn in a thread, with keys of two owners."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from sqlalchemy import Engine, text

from service.api.protocol import BoundedProtocol
from service.db.artefacts import ArtefactStore
from service.db.keys import KeyRepository
from service.db.models import Base
from service.db.session import make_engine, session_scope
from service.main import create_app
from service.settings import Settings

SMALL = {"checkpoint": "builtin:digits", "dataset": "builtin:digits", "latency_budget": "60%"}


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serves an application and yields its URL."""
    config = uvicorn.Config(create_app(settings), http=BoundedProtocol, port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


@dataclass(frozen=True)
class Api:
    """A running API: HTTP as ann, as bob and as nobody, and the database behind it."""

    url: str
    key: str
    ann: httpx.Client
    bob: httpx.Client
    nobody: httpx.Client
    engine: Engine
    artefacts: ArtefactStore
    data: Path

    def empty(self) -> None:
        """Forgets every job, worker and map; keys stay."""
        tables = ", ".join(name for name in Base.metadata.tables if name != "api_keys")
        with session_scope(self.engine) as session:
            session.execute(text(f"TRUNCATE {tables}"))


@contextmanager
def running_api(database_url: str, redis_url: str, folder: Path, **changes: Any) -> Iterator[Api]:
    """An API on that database, with folders of its own under `folder`.

    changes: other settings than the defaults.
    """
    data = folder / "data"
    data.mkdir()
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        sparsevit_home=folder / "home",
        data_roots=(data,),
        **changes,
    )
    engine = make_engine(database_url)
    with session_scope(engine) as session:
        keys = [KeyRepository(session).create(owner, "test") for owner in ("ann", "bob")]
    with serving(settings) as url:
        clients = [httpx.Client(base_url=url, headers=_bearer(key)) for key in (*keys, None)]
        try:
            store = ArtefactStore(settings.artifact_root)
            yield Api(url, keys[0], *clients, engine, store, data)
        finally:
            for client in clients:
                client.close()
            engine.dispose()


def _bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}
