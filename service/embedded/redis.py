"""A real Redis of our own: a plain child process on a free loopback port."""

from __future__ import annotations

import secrets
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from service.embedded.binaries import redis_program
from service.embedded.processes import ChildProcess
from service.embedded.server import EmbeddedServer

START_SECONDS = 30.0
CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{data}"
appendonly yes
save ""
daemonize no
"""


class EmbeddedRedis(EmbeddedServer):
    """Redis with its append-only file and configuration in `folder`.

    The password is random for each start and stands in the configuration file, mode 0600, not
    on the command line.
    """

    name = "Redis"

    def __init__(self, folder: Path, *, log: Path | None = None) -> None:
        super().__init__(folder, log=log)
        self._password = ""

    def url(self, database: int = 0) -> str:
        """The URL of one of its numbered databases, password included."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/{database}"

    def _prepare(self) -> Path:
        self._password = secrets.token_hex(32)
        data = self._folder / "data"
        data.mkdir(exist_ok=True, mode=0o700)
        self._account.own(data, 0o700)
        return redis_program(self._folder, self._account)

    def _start_on(self, program: Path, port: int) -> None:
        self._child = ChildProcess(
            name=self.name,
            argv=[str(program), str(self._write_config(port))],
            log=self._log,
            pid_file=self._folder / "pid",
            account=self._account,
            folder=self._folder,
        )
        self._child.start()
        client = Redis(host="127.0.0.1", port=port, password=self._password, socket_timeout=2)
        with client:
            self._child.wait_ready(lambda: _answers(client), START_SECONDS)

    def _write_config(self, port: int) -> Path:
        config = self._folder / "redis.conf"
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)
        self._account.own(config, 0o600)
        text = CONFIG.format(port=port, password=self._password, data=self._folder / "data")
        config.write_text(text)
        return config


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False
