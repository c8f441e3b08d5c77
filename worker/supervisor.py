"""The worker's side of the device process: start it, feed it one unit, watch it, end it.

A unit that computes cannot be interrupted from inside, so it is stopped by killing the whole
process, and only a process that is confirmed dead counts as stopped: its device is then free.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.memory import held_bytes
from worker.protocol import (
    DEVICE_OUT_OF_MEMORY,
    DEVICE_PROCESS_DIED,
    END_SLICE,
    UNIT_STALLED,
    encode,
    read_messages,
)

logger = logging.getLogger(__name__)

PASSED_ON = frozenset(
    {"PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "LOG_LEVEL", "LOG_FORMAT", "VIRTUAL_ENV"}
    | {"LD_PRELOAD", "SPARSEVIT_GIT_VERSION"}  # an allocator of the operator's; what receipts state
    | {"SPARSEVIT_DATA_CACHE_MB"}
)
PASSED_ON_PREFIXES = (
    *("LC_", "PYTHON", "XDG_", "TORCH"),
    *("OMP_", "MKL_", "KMP_", "OPENBLAS_", "CUDA_", "NVIDIA_"),
)
"""All of the environment that the device process gets: it opens files that strangers wrote, so no
password or key may be near, whatever its name."""

HELLO_SECONDS = 300.0
"""Importing torch from a cold disk takes a minute at worst."""

STALL_SECONDS = 1800.0
"""A unit that reports no progress for so long has hung."""

MEMORY_SECONDS = 0.25
"""So often its memory is looked at: between two looks it can grow by a few hundred megabytes."""


class DeviceUnavailable(Exception):  # noqa: N818 - a state of the device, as its code says
    """The device process could not open its device; carries {"code", "message"}."""

    def __init__(self, error: Mapping[str, str]) -> None:
        super().__init__(error["message"])
        self.error = dict(error)


@dataclass(frozen=True)
class Finished:
    """The unit is done. `kept`: what of an evaluation later jobs may use, by key; see `reuse`."""

    result: dict[str, Any]
    kept: Mapping[bytes, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The unit failed; `retry` says whether another attempt could end differently."""

    error: dict[str, str]
    retry: bool


@dataclass(frozen=True)
class Interrupted:
    """The process was killed because `watch` said so."""

    reason: str


Outcome = Finished | Failed | Interrupted
Watch = Callable[[], str | None]
"""Called between messages; a reason to stop the unit, or None to go on."""


def device_command(device: str) -> list[str]:
    """The command line of the process that owns `device`."""
    return [sys.executable, "-m", "worker.device", "--device", device]


def device_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of the worker's environment reaches the device process."""
    return {
        name: value
        for name, value in environment.items()
        if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }


class DeviceProcess:
    """One device process, started again after it died. Used by one thread at a time."""

    def __init__(
        self,
        command: Sequence[str],
        stall_seconds: float = STALL_SECONDS,
        memory_bytes: int | None = None,
    ) -> None:
        """memory_bytes: what it may hold while it runs a unit; None: what the machine gives."""
        self._command = list(command)
        self._stall_seconds = stall_seconds
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self.facts: dict[str, Any] | None = None
        """The device facts and versions of its hello; None until it has said hello."""
        self.progress: dict[str, Any] | None = None
        """What the unit it works on last said of its progress."""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process without waiting for it; it imports torch meanwhile."""
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=device_environment(os.environ),
            # A group of its own: killed with all that it started, untouched by Ctrl-C.
            start_new_session=True,
        )
        self._messages = queue.Queue()
        threading.Thread(
            target=_read, args=(self._process, self._messages), name="answers", daemon=True
        ).start()

    def hello(self, watch: Watch, timeout: float = HELLO_SECONDS) -> dict[str, Any] | None:
        """Wait until the device is open. None: `watch` said stop. Raises DeviceUnavailable."""
        self.start()
        deadline = time.monotonic() + timeout
        while self.facts is None:
            message = self._next(0.2)
            match message["event"]:
                case "hello":
                    self.facts = message
                case "died":
                    raise DeviceUnavailable(self._death())
                case "error":
                    self.kill()
                    raise DeviceUnavailable(message["error"])
            if watch() is not None:
                return None
            if time.monotonic() > deadline:
                self.kill()
                raise DeviceUnavailable(_stalled("open its device", timeout))
        return self.facts

    def run(self, request: Mapping[str, Any], watch: Watch, every: float) -> Outcome:
        """Run one unit; `watch` is called every `every` seconds while it computes."""
        try:
            return self._run(request, watch, every)
        except BaseException:
            # Its answer must not be taken for the next unit's.
            self.kill()
            raise

    def _run(self, request: Mapping[str, Any], watch: Watch, every: float) -> Outcome:
        self.progress = None
        self._send(request)
        now = time.monotonic()
        next_watch, deadline = now + every, now + self._stall_seconds
        while True:
            message = self._next(min(MEMORY_SECONDS, max(0.0, next_watch - time.monotonic())))
            match message["event"]:
                case "result":
                    return Finished(message["result"])
                case "error":
                    return Failed(message["error"], message["retry"])
                case "died":
                    return Failed(self._death(), retry=True)
                case "progress":
                    self.progress = message
                    deadline = time.monotonic() + self._stall_seconds
            if self._holds_too_much():
                return Failed(self._outgrown(), retry=True)
            if time.monotonic() >= next_watch:
                if (reason := watch()) is not None:
                    self.kill()
                    return Interrupted(reason)
                next_watch = time.monotonic() + every
            if time.monotonic() > deadline:
                self.kill()
                return Failed(_stalled("make progress", self._stall_seconds), retry=True)

    def _holds_too_much(self) -> bool:
        limit, pid = self._memory_bytes, self.pid
        return limit is not None and pid is not None and held_bytes(pid) > limit

    def _outgrown(self) -> dict[str, str]:
        """Kill a process that holds too much, before the system has to choose whom to kill."""
        self.kill()
        assert self._memory_bytes is not None
        megabytes = self._memory_bytes / 2**20
        logger.warning("the device process held more than %.0f MB and was killed", megabytes)
        return {
            "code": DEVICE_OUT_OF_MEMORY,
            "message": f"The device process held more than {megabytes:.0f} MB of the host's memory "
            "and was killed. Use smaller files, images or batches, or give it more "
            "(DEVICE_MEMORY_MB).",
        }

    def end_slice(self) -> None:
        """Tell a training that runs to end its slice where it is; any other unit does not listen."""
        self._send({"kind": END_SLICE})

    def kill(self) -> None:
        """Kill the process and all it started, and wait until it is gone."""
        if self._process is None:
            return
        # The group may have ended by itself.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._reap()

    def stop(self, grace: float = 2.0) -> None:
        """Let an idle process end by closing its stdin; kill it after `grace` seconds."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self.kill()

    def _send(self, message: Mapping[str, Any]) -> None:
        self.start()
        # A process that died is noticed when its answers end.
        with contextlib.suppress(OSError):
            self._process.stdin.write(encode(message))  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def _next(self, timeout: float) -> dict[str, Any]:
        """The next message; "died" ends them, "silence" says that there was none in time."""
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            return {"event": "silence"}

    def _death(self) -> dict[str, str]:
        """Take leave of a process whose answers ended, and say how it went."""
        assert self._process is not None
        try:
            status = self._process.wait(5.0)
        except subprocess.TimeoutExpired:  # it closed its answers and lives on
            self.kill()
            status = -signal.SIGKILL
        else:
            self._reap()
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        logger.warning("the device process %s", how)
        return {
            "code": DEVICE_PROCESS_DIED,
            "message": f"The process that owns the device {how}. If this happens again, the unit "
            "probably needs more memory than this machine has: use a smaller input.",
        }

    def _reap(self) -> None:
        process, self._process, self.facts = self._process, None, None
        assert process is not None
        assert process.stdin is not None
        process.wait()
        with contextlib.suppress(OSError):  # what was not flushed is lost with the process
            process.stdin.close()


def _read(process: subprocess.Popen[bytes], messages: queue.Queue[dict[str, Any]]) -> None:
    assert process.stdout is not None
    with process.stdout as answers:
        for message in read_messages(answers):
            messages.put(message)
    messages.put({"event": "died"})


def _stalled(what: str, seconds: float) -> dict[str, str]:
    return {
        "code": UNIT_STALLED,
        "message": f"The device process did not {what} for {seconds:.0f} seconds and was killed.",
    }
