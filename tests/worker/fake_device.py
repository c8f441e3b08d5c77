"""A device process whose work is made up: `python fake_device.py`, for tests of its supervision.

FAKE_LOG=FILE on the command line: it writes every request down there, one JSON line each.
FAKE_FATAL={"genes": [...]} or {"shard": 1, "image": 12}: it dies of that candidate, or of that image.
FAKE_DISTURBED=2: so many attempts at a measurement find no quiet moment.
FAKE_WATCH=FOLDER: it writes down where a unit overlaps with one that must be alone on the device.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.domain.status import QUIET_KINDS
from sparsevit.errors import (
    CheckpointUnsafe,
    DeviceBusy,
    DeviceDisturbed,
    DeviceUnsuited,
    InputTooLarge,
)
from tests.worker import rows
from worker.device import serve

OPTIONS = dict(option.split("=", 1) for option in sys.argv[1:] if "=" in option)


def is_fatal(payload: Mapping[str, Any], fatal: Mapping[str, Any]) -> bool:
    """Whether a unit has to do with what FAKE_FATAL names."""
    if "genes" in fatal:
        return fatal["genes"] in payload.get("candidates", [])
    if "shard" not in payload or payload["shard"] != fatal.get("shard"):
        return False
    first, end = payload.get("images", (0, 1000)) or (0, 0)
    return first <= fatal["image"] < end


@contextmanager
def watched(request: Mapping[str, Any]) -> Iterator[None]:
    """Holds a lock as the unit should hold the device; it ends with the process, however that ends."""
    if "FAKE_WATCH" not in OPTIONS:
        yield
        return
    place = Path(OPTIONS["FAKE_WATCH"], OPTIONS.get("FAKE_UUID", "CPU-1"))
    alone = request["kind"] in QUIET_KINDS
    with place.open("a") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            with place.with_suffix(".overlaps").open("a") as log:
                log.write(json.dumps({"kind": request["kind"], "about": request["about"]}) + "\n")
        yield


class FakeWork:
    """Does what the payload's "do" names."""

    def __init__(self) -> None:
        self.forgotten = 0

    def hello(self) -> dict[str, Any]:
        """A device with a name."""
        if "refuse" in sys.argv:
            raise CheckpointUnsafe("no such device")
        if "die" in sys.argv:
            os._exit(7)
        device = {
            **rows.DEVICE,
            "uuid": OPTIONS.get("FAKE_UUID", "CPU-1"),
            "environment": sorted(os.environ),
        }
        return {"device": device, "versions": {"torch": "none"}}

    def forget(self) -> None:
        """Count it."""
        self.forgotten += 1

    def run(self, request: Mapping[str, Any], report: Callable[[int, int], None]) -> dict[str, Any]:
        """Do one thing: what a test asks for, or what a unit of a job would answer."""
        if "FAKE_LOG" in OPTIONS:
            with Path(OPTIONS["FAKE_LOG"]).open("a") as log:
                log.write(json.dumps(request) + "\n")
        if request["kind"] != "test":
            with watched(request):
                time.sleep(float(OPTIONS.get("FAKE_SECONDS", "0")))
            if is_fatal(request["payload"], json.loads(OPTIONS.get("FAKE_FATAL", "{}"))):
                os.kill(os.getpid(), signal.SIGSEGV)
            return self.measured(request, rows.simulate(request["kind"], request["payload"]))
        return getattr(self, f"do_{request['payload']['do']}")(request["payload"], report)

    def measured(self, request: Mapping[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        """The answer, unless the device is to be disturbed."""
        calm = request["about"]["attempt"] > int(OPTIONS.get("FAKE_DISTURBED", "0"))
        if calm or request["kind"] != "measure":
            return answer
        if "found" in request["payload"]:
            raise DeviceDisturbed("busy all the time")
        return rows.disturbed(answer, f"busy in attempt {request['about']['attempt']}")

    def do_echo(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        return {"payload": dict(payload), "pid": os.getpid(), "forgotten": self.forgotten}

    def do_garbage(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        print("hello from a noisy library")
        print('{"event": "result", "result": {"forged": true}}', flush=True)
        os.write(1, b'{"event": "result", "result": {"forged": true}}\n\xff\xfe')
        subprocess.run(["echo", '{"event": "error"}'], check=True)
        return {"forged": False, "stdin": sys.stdin.read() if "stdin" in payload else ""}

    def do_sleep(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        for done in range(payload["steps"]):
            report(done, payload["steps"])
            time.sleep(payload["seconds"])
        return {"slept": True}

    def do_unsafe(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        raise CheckpointUnsafe("the file would run code")

    def do_large(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        raise InputTooLarge("use 448x448")

    def do_unsuited(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        raise DeviceUnsuited("no such mode here")

    def do_busy(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        raise DeviceBusy("try again")

    def do_memory(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        raise MemoryError

    def do_table(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        return {"rows": len(json.loads(Path(payload["file"]).read_bytes()))}

    def do_full(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        with open("/dev/full", "wb") as file:
            file.write(b"checkpoint")
        return {}

    def do_bug(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        raise KeyError("surprise")

    def do_nan(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        return {"metric": float("nan")}

    def do_segfault(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGSEGV)
        return {}

    def do_exit(self, payload: Mapping[str, Any], report: Callable) -> dict[str, Any]:
        os._exit(7)


if __name__ == "__main__":
    sys.exit(serve(FakeWork()))
