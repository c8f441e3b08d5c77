"""A real Postgres of our own: a plain child process on a free loopback port."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from service.embedded.binaries import postgres_programs
from service.embedded.errors import EmbeddedError
from service.embedded.processes import ChildProcess
from service.embedded.server import EmbeddedServer

USER = "sparsevit"
START_SECONDS = 60.0  # recovery after a crash may have to replay the log first
# Small on purpose: jobs are rows of a few kilobytes, and the memory belongs to the search.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "log_min_messages": "warning",
}
# A temporary server's data is thrown away with it, so it need not survive a power cut.
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """Postgres with its data and password in `folder`.

    Connections need the random password (scram-sha-256) that lies beside the data, mode 0600.
    `durable=False` is for temporary servers: no fsync.
    """

    name = "Postgres"

    def __init__(self, folder: Path, *, log: Path | None = None, durable: bool = True) -> None:
        super().__init__(folder, log=log)
        self._durable = durable

    @property
    def data(self) -> Path:
        """The data directory."""
        return self._folder / "data"

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of one of its databases, password included."""
        password = self._password_file.read_text().strip()
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{self._port}/{database}"

    @property
    def _password_file(self) -> Path:
        return self._folder / "password"

    def _prepare(self) -> Path:
        version = self.data / "PG_VERSION"
        major = version.read_text().strip() if version.exists() else None
        programs = postgres_programs(self._folder, self._account, major)
        if not self.data.exists():
            self._create(programs)
        return programs / "postgres"

    def _create(self, programs: Path) -> None:
        """initdb into a folder beside the final one: a run that is cut short leaves no half."""
        partial = self._folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        self._account.own(partial, 0o700)
        self._password_file.touch(mode=0o600)
        self._account.own(self._password_file, 0o600)
        self._password_file.write_text(secrets.token_urlsafe(32) + "\n")
        argv = [str(programs / "initdb"), "-D", str(partial), "-U", USER, "--encoding=UTF8"]
        argv += ["--auth=scram-sha-256", f"--pwfile={self._password_file}", "--no-sync"]
        argv += ["--no-locale"]
        result = subprocess.run(
            self._account.command(argv, signal.SIGKILL),
            capture_output=True,
            text=True,
            cwd=self._folder,
            start_new_session=True,
        )
        if result.returncode != 0:
            raise EmbeddedError(
                f"Postgres could not create its data ({result.stderr.strip()}): mend that, "
                "or set DATABASE_URL to a Postgres of your own"
            )
        partial.rename(self.data)

    def _start_on(self, program: Path, port: int) -> None:
        settings = SETTINGS | {"port": str(port)} | ({} if self._durable else NOT_DURABLE)
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        self._child = ChildProcess(
            name=self.name,
            argv=[str(program), "-D", str(self.data), *options],
            log=self._log,
            pid_file=self._folder / "pid",
            account=self._account,
            folder=self._folder,
            stop_signal=signal.SIGINT,  # "fast": cuts connections, writes everything down
            death_signal=signal.SIGINT,
            patience=30.0,
        )
        self._child.end_leftover()
        self._forget_stranger()
        self._child.start()
        self._child.wait_ready(self._accepts, START_SECONDS)

    def _forget_stranger(self) -> None:
        """Drop a stale postmaster.pid whose number by now belongs to another program.

        Postgres would take that for a running server and refuse. A file whose process is gone,
        or is a Postgres, is left to Postgres: it checks for orphaned backends by that file.
        """
        file = self.data / "postmaster.pid"
        with suppress(OSError, ValueError, IndexError, psutil.Error):
            if psutil.Process(int(file.read_text().split()[0])).name() != "postgres":
                file.unlink()

    def _accepts(self) -> bool:
        """What pg_ctl looks at: the first line is our process, the eighth says ready."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        ours = len(lines) >= 8 and lines[0] == str(self.process.pid)
        return ours and lines[7].strip() == "ready"
