"""DeviceLock: keeps a device quiet while it is measured.

Every process of a host that uses a device holds its lock: shared for ordinary work, exclusive for a
measurement. The locks are files (flock), so they end with their process, however it ends, and work
between containers that mount the same folder. Importable without torch.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sparsevit.errors import DeviceBusy

POLL_SECONDS = 0.02


class DeviceLock:
    """The lock of one device: two files in `folder`, which is made where it is missing.

    Not reentrant: a process that holds it shared and asks for it exclusive waits for itself.
    """

    def __init__(self, folder: Path | str, device_uuid: str) -> None:
        self.device_uuid = device_uuid
        self._folder = Path(folder)
        self._name = re.sub(r"[^A-Za-z0-9._-]", "_", device_uuid)

    @contextmanager
    def shared(self, timeout: float | None = None) -> Iterator[None]:
        """Holds the device along with other shared holders.

        timeout: seconds to wait; None waits on, 0 tries once. Raises DeviceBusy when it is over.
        """
        deadline = _deadline(timeout)
        with ExitStack() as holding:
            with self._held("gate", fcntl.LOCK_SH, deadline):
                holding.enter_context(self._held("lock", fcntl.LOCK_SH, deadline))
            yield

    @contextmanager
    def exclusive(self, timeout: float | None = None) -> Iterator[None]:
        """Holds the device alone; timeout and errors as in `shared`."""
        deadline = _deadline(timeout)
        # The gate keeps newcomers out while this waits for the present holders: without it a
        # stream of overlapping shared holders would keep a measurement waiting for ever.
        with (
            self._held("gate", fcntl.LOCK_EX, deadline),
            self._held("lock", fcntl.LOCK_EX, deadline),
        ):
            yield

    @contextmanager
    def _held(self, suffix: str, operation: int, deadline: float | None) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._name}.{suffix}"
        # Never unlinked: a process that waits on an unlinked file would lock nothing. Read-only, so
        # that processes of several users can lock one file.
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        try:
            while not _try_lock(descriptor, operation):
                if deadline is not None and time.monotonic() >= deadline:
                    raise DeviceBusy(
                        f"the device {self.device_uuid} stayed in use by another process "
                        "until the time to wait for it was over."
                    )
                time.sleep(POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
