"""How one call is timed: wall clock on CPU, a pair of events on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from sparsevit.errors import DeviceError

Run = Callable[[], object]
Clock = Callable[[], int]
Timer = Callable[[Run], float]
"""Calls a run once and says how many ms it took."""


def device_timer(device: torch.device, clock: Clock) -> Timer:
    """A timer for the device. clock: nanoseconds, for the CPU's wall-clock samples.

    Raises DeviceError for a device that is not here.
    """
    if device.type == "cpu":
        return lambda run: _wall_clock(run, clock)
    if device.type != "cuda":
        raise DeviceError(f"the meter knows cpu and cuda devices, not {device}.")
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"{device} is not on this machine.")
    return lambda run: _between_events(run, device)


def _wall_clock(run: Run, clock: Clock) -> float:
    start = clock()
    run()
    elapsed = clock() - start
    if elapsed <= 0:
        raise ValueError("the clock did not advance during a run.")
    return elapsed / 1e6


def _between_events(run: Run, device: torch.device) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """torch's threads within the block; None leaves them."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
