"""Child processes with a log, a stop that always ends, and a memory of what a killed run left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from service.embedded.accounts import ServerAccount
from service.embedded.errors import EmbeddedError

POLL_SECONDS = 0.02
LOG_TAIL_LINES = 15
CALLER = ServerAccount()


class ChildProcess:
    """One program in a session of its own, so that Ctrl-C in the terminal reaches only us.

    It is told to end by `stop_signal` and killed after `patience` seconds. Where we die without
    a word, Linux sends it `death_signal`; on other systems, and as a second line of defence, the
    next `start` ends what `pid_file` still names.
    """

    def __init__(
        self,
        *,
        name: str,
        argv: list[str],
        log: Path,
        pid_file: Path,
        account: ServerAccount = CALLER,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        patience: float = 10.0,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = argv
        self._pid_file = pid_file
        self._account = account
        self._environment = environment
        self._folder = folder
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; raises where it was never started."""
        if self._process is None:
            raise EmbeddedError(f"{self.name} was not started")
        return self._process.pid

    def start(self) -> None:
        """Start the program; returns at once, `wait_ready` tells when it serves."""
        if threading.current_thread() is not threading.main_thread():
            # The kernel's "parent" is the thread that forked: servers would die with it.
            raise EmbeddedError(f"{self.name} must be started from the main thread")
        self.end_leftover()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # why the last run ended stays readable
            self.log.replace(self.log.with_suffix(".previous.log"))
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self._account.command(self._argv, self._death_signal),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if self._environment is None else dict(self._environment),
                cwd=self._folder,
                start_new_session=True,
            )
        self._remember()

    def end_leftover(self) -> None:
        """End the program of an earlier run that was killed, where it still lives."""
        stop_leftover(self._pid_file, self._stop_signal)

    def wait_ready(self, ready: Callable[[], bool], timeout: float) -> None:
        """Return once `ready()`; raise, with the log's tail, where it ends or stays silent."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.alive():
                raise self.failure("ended while starting")
            if time.monotonic() > deadline:
                raise self.failure(f"did not answer within {timeout:.0f} s")
            time.sleep(POLL_SECONDS)

    def alive(self) -> bool:
        """Whether the program runs."""
        return self._process is not None and self._process.poll() is None

    def failure(self, what: str) -> EmbeddedError:
        """An error that shows the end of the log."""
        return EmbeddedError(f"{self.name} {what}; the end of its log {self.log}:\n{self.tail()}")

    def tail(self) -> str:
        """The last lines of the log, indented."""
        with suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            return "\n".join(f"    {line}" for line in lines)
        return "    (no log)"

    def stop(self) -> None:
        """End the program and what it started; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(self._stop_signal)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._patience)
        # Also where it ended well: the session's group holds whatever it failed to take along.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the program at once, as a power cut would (for tests of recovery)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _remember(self) -> None:
        with suppress(psutil.NoSuchProcess):
            born = psutil.Process(self.pid).create_time()
            self._pid_file.write_text(json.dumps({"pid": self.pid, "born": born}))


def stop_leftover(pid_file: Path, stop_signal: signal.Signals, patience: float = 10.0) -> None:
    """End the process that `pid_file` names, if it still is that process, and forget it."""
    with suppress(OSError, ValueError, KeyError, psutil.NoSuchProcess, psutil.AccessDenied):
        note = json.loads(pid_file.read_text())
        process = psutil.Process(int(note["pid"]))
        if abs(process.create_time() - note["born"]) < 0.5:  # else the number was given anew
            process.send_signal(stop_signal)
            try:
                process.wait(patience)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(patience)
    pid_file.unlink(missing_ok=True)


def free_port() -> int:
    """A loopback port that was free a moment ago; a caller retries where it no longer is."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def require_free(port: int) -> None:
    """Raise where another program listens on this loopback port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise EmbeddedError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from None


def start_on_free_port(start: Callable[[int], None], attempts: int = 3) -> int:
    """Call `start(port)` with free ports until one succeeds; returns that port.

    Between finding a free port and listening on it another program may take it.
    """
    for attempt in range(1, attempts + 1):
        port = free_port()
        try:
            start(port)
        except EmbeddedError as error:
            taken = "in use" in str(error) or "could not create any TCP/IP sockets" in str(error)
            if not taken or attempt == attempts:
                raise
            time.sleep(0.3)  # orphaned backends of a killed Postgres hold its memory this long
        else:
            return port
    raise AssertionError("the loop returns or raises")
