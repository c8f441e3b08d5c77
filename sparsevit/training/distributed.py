"""Training by several processes, started by torchrun: each computes its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from sparsevit.errors import ConfigError

# The others wait while the first process checks the data set, or scores the model.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together. Only the one of rank 0 writes."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=_device())
        distributed.all_reduce(total)
        return total.item() / self.count

    def agree(self, wish: bool) -> bool:
        """What the first process wishes: clocks differ, and all must stop at the same step."""
        if self.count == 1:
            return wish
        said = torch.tensor([int(wish)], device=_device())
        distributed.broadcast(said, 0)
        return bool(said.item())

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            distributed.barrier()


def processes() -> Processes:
    """The processes of the default group, or this one alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Processes()
    return Processes(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Joins the processes that torchrun started, if it did; yields this one's device.

    cuda becomes the CUDA device of the process's number on its machine. Gradients travel by nccl
    between CUDA devices, by gloo between CPUs.
    """
    if "LOCAL_RANK" not in os.environ or not distributed.is_available():
        yield device
        return
    if device.startswith("cuda:"):
        raise ConfigError(f"torchrun gives each process a device of its own: cuda, not {device}.")
    cuda = device == "cuda"
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def _device() -> torch.device:
    cuda = distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
