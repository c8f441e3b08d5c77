"""Main of the process that owns one device: `python -m worker.device --device cpu`.

It reads requests from stdin and answers on stdout (see protocol.py), one unit at a time, and stays
warm between them. The worker that started it supervises it (see supervisor.py): this process
knows no database, no lease and no secret, so whatever a hostile file or a full memory does to it,
the worker lives on. It ends when its stdin closes: a worker that is gone leaves nothing behind.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Protocol

from service.domain.logs import about, configure
from sparsevit.errors import SparseViTError
from worker.protocol import (
    DEVICE_OUT_OF_MEMORY,
    END_SLICE,
    INTERNAL,
    STORAGE_FULL,
    Channel,
    read_messages,
)

logger = logging.getLogger("worker.device")

LONGEST_MESSAGE = 2000


class Progress:
    """Called with what is done and what there is to do, of a training with its loss as well; it
    also says that the unit has not hung. ending: whether the worker is about to end, so that a unit
    that others can go on with should stop where it is."""

    def __init__(self, channel: Channel, ending: Callable[[], bool]) -> None:
        self._channel, self.ending = channel, ending

    def __call__(self, done: int, total: int, loss: float | None = None) -> None:
        message = {"event": "progress", "done": done, "total": total, "loss": loss}
        self._channel.send(message)


class Work(Protocol):
    """What a device process does with the requests it is sent."""

    def hello(self) -> dict[str, Any]:
        """Open the device: {"device": facts, "versions": {...}}. Raises SparseViTError."""

    def run(self, request: Mapping[str, Any], report: Progress) -> dict[str, Any]:
        """Do one unit and return its result, plain JSON."""

    def forget(self) -> None:
        """Give back all the memory that is only kept to be warm."""


def serve(work: Work) -> int:
    """Answer requests until stdin closes; returns the exit status."""
    channel, incoming = _take_over_pipes()
    requests, ending = _listen(incoming)
    # Ctrl-C reaches the whole terminal group: what then becomes of a unit is the worker's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        channel.send({"event": "hello", "pid": os.getpid(), **work.hello()})
    except BrokenPipeError:
        return 0  # the worker died meanwhile: nobody is left to be told
    except Exception as error:
        channel.send({"event": "error", "error": describe(error), "retry": False})
        return 1
    report = Progress(channel, ending.is_set)
    while True:
        _answer(work, requests.get(), channel, report)


def _answer(work: Work, request: dict[str, Any], channel: Channel, report: Progress) -> None:
    try:
        channel.send({"event": "result", "result": work.run(request, report)})
        return
    except Exception as failure:
        with about(**request.get("about", {})):
            error = describe(failure)
        retry = not isinstance(failure, SparseViTError) or failure.passing
    # Outside of the handler, whose traceback would hold on to the tensors that filled the memory.
    if error["code"] == DEVICE_OUT_OF_MEMORY:
        work.forget()
    channel.send({"event": "error", "error": error, "retry": retry})


def describe(error: Exception) -> dict[str, str]:
    """An exception as {"code", "message"}: the library's errors by their code, a full memory or disk
    by one of their own, others INTERNAL."""
    if isinstance(error, SparseViTError):
        return {"code": error.code, "message": _plain(str(error))}
    if _is_out_of_memory(error):
        return {
            "code": DEVICE_OUT_OF_MEMORY,
            "message": "The device ran out of memory. Use a smaller input or batch, a lower "
            "precision, or a device with more memory.",
        }
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {
            "code": STORAGE_FULL,
            "message": "There is no space left where the worker writes. Free some below "
            "ARTIFACT_ROOT (a training needs about six times the size of its model there), and "
            "submit the search again.",
        }
    logger.error("a unit failed unexpectedly", exc_info=error)
    return {
        "code": INTERNAL,
        "message": _plain(f"{type(error).__name__}: {error} (the worker's log has the traceback)"),
    }


def _plain(text: str) -> str:
    """Text a database takes: messages quote files that strangers wrote."""
    text = text.encode(errors="replace").decode().replace("\0", "?")
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "..."


def _is_out_of_memory(error: Exception) -> bool:
    # torch's own class is matched by name: this module must import without torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )


def _take_over_pipes() -> tuple[Channel, BinaryIO]:
    """Keep stdin and stdout for the protocol alone; prints of libraries go to stderr instead."""
    incoming = os.fdopen(os.dup(0), "rb")
    channel = Channel(os.dup(1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return channel, incoming


def _listen(incoming: BinaryIO) -> tuple[queue.Queue[dict[str, Any]], threading.Event]:
    """Read on while units run: what the worker asks for, and whether it is about to end."""
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    ending = threading.Event()

    def read() -> None:
        for request in read_messages(incoming):
            if request.get("kind") == END_SLICE:
                ending.set()
            else:
                requests.put(request)
        # The worker is gone: nobody is left to take a result, so a running unit ends here too.
        os._exit(0)

    threading.Thread(target=read, name="requests", daemon=True).start()
    return requests, ending


def main() -> int:
    """Own the device named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m worker.device", description=__doc__)
    parser.add_argument("--device", required=True, help="cpu, or a CUDA device such as cuda:0")
    device = parser.parse_args().device
    log_format: Any = os.environ.get("LOG_FORMAT", "text").lower()
    configure(os.environ.get("LOG_LEVEL", "INFO").upper(), log_format, device=device)
    from worker.runners import SessionWork

    return serve(SessionWork(device))


if __name__ == "__main__":
    sys.exit(main())
