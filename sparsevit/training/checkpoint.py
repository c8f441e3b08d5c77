"""Training checkpoints: there whole or not at all, and read without running anything in them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sparsevit.errors import CheckpointCorrupt, CheckpointUnsafe, ConfigError

FORMAT = "sparsevit-training-1"


def write_checkpoint(path: Path, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Writes beside the place, to the disk, and moves it there: a kill or a power cut leaves the old
    checkpoint or the new one. facts: what the training is of, JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed
    with open(part, "xb") as file:
        torch.save({"format": FORMAT, "facts": json.dumps(dict(facts)), "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _sync_folder(path.parent)


def read_checkpoint(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint of the same training.

    Raises ConfigError, naming what differs, for one of another training, CheckpointUnsafe or
    CheckpointCorrupt for a file that is none.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointUnsafe(f"{path} holds more than a training's state.") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointCorrupt(f"{path} is no whole training checkpoint: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointCorrupt(f"{path} is no training checkpoint ({FORMAT}).")
    _check_same(path, json.loads(document["facts"]), json.loads(json.dumps(dict(facts))))
    return document["state"]


def _check_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """A fact that is None on one side is not known there."""
    known = [n for n in now if now[n] is not None and before.get(n) is not None]
    for name in known:
        if before[name] != now[name]:
            raise ConfigError(
                f"{path} is of another training: its {name} was {before[name]}, now it is "
                f"{now[name]}. Train as before, or delete it to begin anew."
            )


def _sync_folder(folder: Path) -> None:
    """The move itself must reach the disk, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
