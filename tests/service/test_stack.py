"""`sparsevit up` as a user runs it: real servers, the real API, a real worker, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from service.client import Client
from service.embedded.accounts import temporary_home
from service.embedded.errors import EmbeddedError
from service.embedded.processes import require_free
from service.embedded.signals import Stopped, stoppable, undisturbed
from service.home import Addresses, read_key

START_SECONDS = 180.0
SPARSEVIT = [sys.executable, "-m", "sparsevit.cli"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with temporary_home(tmp_path_factory.mktemp("stack")) as folder:
        yield folder


def environment(home: Path) -> dict[str, str]:
    """The developer's own, without the names that would lead to another service."""
    ours = ("SPARSEVIT_URL", "SPARSEVIT_KEY", "DATABASE_URL", "REDIS_URL")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "SPARSEVIT_HOME": str(home)}


def sparsevit(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SPARSEVIT, *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


class Up:
    """A running `sparsevit up` and everything it started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.family = psutil.Process(process.pid).children(recursive=True)

    def end(self, number: signal.Signals) -> int:
        """Send the signal, wait; returns the exit code. Nothing of the family may live on."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        _, alive = psutil.wait_procs(self.family, timeout=20)
        assert alive == []
        return code


def listen_to_ctrl_c() -> None:
    """A run in a shell's background has Ctrl-C ignored, and so have the programs it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def up(home: Path, *options: str) -> Iterator[Up]:
    process = subprocess.Popen(
        [*SPARSEVIT, "up", "--port", "0", *options],
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_ctrl_c,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "Ctrl-C stops everything" in line:
                break
        else:
            raise AssertionError(f"sparsevit up ended with {process.wait()}")
        yield Up(process)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def test_up_serves_commands_find_it_and_ctrl_c_ends_it_in_order(home: Path) -> None:
    with up(home) as running:
        names = {process.name() for process in running.family}
        assert {"postgres", "redis-server"} <= names
        listed = json.loads(sparsevit(home, "jobs", "--json").stdout)
        assert listed["data"] == []
        check_keys(home)
        check_a_refused_search(home)
        assert running.end(signal.SIGINT) == 0
    assert Addresses.read(home) is None
    after = sparsevit(home, "jobs")
    assert (after.returncode, "sparsevit up" in after.stderr) == (1, True)


def check_keys(home: Path) -> None:
    key = sparsevit(home, "keys", "create", "notebook").stdout.strip()
    addresses = Addresses.read(home)
    assert addresses is not None
    with Client(addresses.url, key) as client:
        assert client.jobs()["data"] == []
        assert [worker["device_kind"] for worker in client.workers()] == ["cpu"]
    rows = json.loads(sparsevit(home, "keys", "list", "--json").stdout)
    assert [row["name"] for row in rows] == ["sparsevit up", "notebook"]
    assert sparsevit(home, "keys", "revoke", rows[1]["id"]).returncode == 0
    assert sparsevit(home, "keys", "revoke", rows[1]["id"]).returncode == 1
    refused = sparsevit(home, "jobs", "--url", addresses.url, "--key", key)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")


def check_a_refused_search(home: Path) -> None:
    """What the service refuses is told by field, without a traceback."""
    done = sparsevit(
        home,
        *("search", "builtin:digits", "builtin:digits", "--latency", "60%"),
        *("--population", "4", "--parents", "9"),
    )
    assert done.returncode == 1
    assert "parents must not exceed population" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_up_takes_its_processes_along_and_starts_again_with_its_data(home: Path) -> None:
    key = read_key(home)
    with up(home) as running:
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
    with up(home) as running:
        assert read_key(home) == key
        rows = json.loads(sparsevit(home, "keys", "list", "--json").stdout)
        assert [row["name"] for row in rows] == ["sparsevit up", "notebook"]
        assert running.end(signal.SIGTERM) == 0


def test_whatever_is_killed_is_started_again(home: Path) -> None:
    with up(home) as running:
        for name in ("redis-server", "postgres", "uvicorn", "worker"):
            wanted = children(running)[name]
            wanted.kill()
            deadline = time.monotonic() + START_SECONDS
            while not serves_again(home, running, name, wanted.pid):
                assert running.process.poll() is None, "sparsevit up has ended"
                assert time.monotonic() < deadline, name
                time.sleep(0.5)
        running.family = psutil.Process(running.process.pid).children(recursive=True)
        assert running.end(signal.SIGTERM) == 0


def children(running: Up) -> dict[str, psutil.Process]:
    """The four direct children, by what they run."""
    names = ("redis-server", "postgres", "uvicorn", "worker")
    found = {}
    for process in psutil.Process(running.process.pid).children():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            found |= {name: process for name in names if name in words}
    return found


def serves_again(home: Path, running: Up, name: str, killed: int) -> bool:
    process = children(running).get(name)
    if process is None or process.pid == killed:
        return False
    done = sparsevit(home, "jobs", "--json")
    return done.returncode == 0


def test_a_part_that_does_not_start_is_shown_with_its_log_and_nothing_is_left(home: Path) -> None:
    done = sparsevit(home, "up", "--port", "0", "--device", "cuda:99")
    assert done.returncode == 1
    assert "error: the worker-cuda:99 ended while starting" in done.stderr
    assert "worker-cuda-99.log" in done.stderr
    assert "Traceback" not in done.stderr
    for name in ("postgres", "redis"):
        assert not (home / name / "pid").exists()


def test_a_taken_port_is_told_before_anything_of_it_is_used(free_port: int) -> None:
    require_free(free_port)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port))
        listener.listen()
        with pytest.raises(EmbeddedError, match="--port"):
            require_free(free_port)


def send_self(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def interrupted(ended: list[bool]) -> None:
    try:
        send_self(signal.SIGTERM)
    finally:
        send_self(signal.SIGTERM)
        with undisturbed():
            send_self(signal.SIGINT)
        ended.append(True)


def test_the_first_signal_stops_and_no_later_one_disturbs() -> None:
    before = signal.getsignal(signal.SIGTERM)
    ended: list[bool] = []
    with pytest.raises(Stopped) as raised, stoppable():
        interrupted(ended)
    assert raised.value.exit_code == 143
    assert ended == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with suppress(Stopped), stoppable():
            send_self(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
