"""The lines between a worker and the process that owns its device.

One JSON object a line, one unit at a time. The worker writes requests to the process's stdin:

    {"kind": "evaluate", "session": {...}, "payload": {...},
     "about": {"job": "job_...", "unit": 7, "attempt": 1}}      what lines of its log are about
    {"kind": "end_slice"}     while it works: the worker is about to end, and a training may go on
                              elsewhere from where it is now

The process answers on its stdout, first of all with who it is:

    {"event": "hello", "pid": 41, "device": {...}, "versions": {...}}
    {"event": "progress", "done": 3, "total": 16, "loss": null}
    {"event": "result", "result": {...}}
    {"event": "error", "error": {"code": "...", "message": "..."}, "retry": false}

An error instead of a hello says that the device could not be opened.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

END_SLICE = "end_slice"
DEVICE_PROCESS_DIED = "DEVICE_PROCESS_DIED"
DEVICE_OUT_OF_MEMORY = "DEVICE_OUT_OF_MEMORY"
STORAGE_FULL = "STORAGE_FULL"
INTERNAL = "INTERNAL"
UNIT_STALLED = "UNIT_STALLED"


def encode(message: Mapping[str, Any]) -> bytes:
    """One line; a NaN or an infinity raises ValueError, since JSON has neither."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read_messages(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """Every message of a stream until it closes; a line that is no JSON object is skipped."""
    for line in stream:
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict):
            yield message


class Channel:
    """Writes whole lines to a descriptor of its own, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._lock = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        line = memoryview(encode(message))
        with self._lock:
            while line:  # a raw write to a pipe may take a part only
                line = line[self._file.write(line) or 0 :]
