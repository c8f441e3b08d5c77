"""Exits 0 where a worker of this container was seen by the database lately, else 1."""

import socket
import sys

from service.db.session import make_engine, session_scope
from service.db.workers import WorkerRepository
from service.settings import load_settings


def main() -> int:
    with session_scope(make_engine(load_settings().database_url, pool_size=1)) as session:
        online = WorkerRepository(session).all(online_only=True)
    return 0 if any(worker.host == socket.gethostname() for worker in online) else 1


if __name__ == "__main__":
    sys.exit(main())
