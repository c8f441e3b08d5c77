"""Files that are damaged or hostile, and a small one that is not."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import torch

from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin


class Canary:
    """Its pickle touches a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def small_state() -> dict[str, torch.Tensor]:
    return SparseSwin(
        SwinConfig(embed_dim=4, depths=(2,), num_heads=(1,), window_size=2)
    ).state_dict()


def header(length: int, body: bytes) -> bytes:
    """The start of a safetensors file that claims a header of `length` bytes."""
    return struct.pack("<Q", length) + body


def spoiled(raw: bytes, rng: random.Random) -> bytes:
    """The bytes with some of them changed, or cut short."""
    if rng.random() < 0.3:
        return raw[: rng.randrange(len(raw))]
    changed = bytearray(raw)
    # Half of the changes fall where a file keeps its structure: at its start and its end.
    span = len(raw) if rng.random() < 0.5 else min(len(raw), 1500)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(span)
        changed[place if rng.random() < 0.7 else len(raw) - 1 - place] = rng.randrange(256)
    return bytes(changed)
