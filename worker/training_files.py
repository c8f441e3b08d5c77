"""The files of a training in slices.

    ARTIFACT_ROOT/training/JOB/UNIT-ATTEMPT/   one attempt at one slice: nobody else writes there
    ARTIFACT_ROOT/SHA256                       a checkpoint, from which the next slice goes on
    ARTIFACT_ROOT/SHA256.safetensors           the weights, written by the last slice

The device process works in its attempt's folder. Only the worker that still holds the lease moves
files from there to their places, in the transaction that ends the unit: whatever a stale attempt
goes on to write stays in its own folder, which is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from service.db.artefacts import TRAININGS, WEIGHTS_SUFFIX, ArtefactStore
from service.db.checkpoints import CheckpointRepository
from service.domain.records import Unit
from sparsevit.errors import CheckpointError

CHECKPOINT, WEIGHTS = "training.ckpt", "weights" + WEIGHTS_SUFFIX


def attempt_folder(root: Path, unit: Unit) -> Path:
    """Where one attempt at a slice works."""
    return job_folder(root, unit.job_id) / f"{unit.id}-{unit.attempt}"


def job_folder(root: Path, job_id: str) -> Path:
    """Where the attempts of a job work."""
    return root / TRAININGS / job_id


def begin(folder: Path, store: ArtefactStore, checkpoint: str | None) -> tuple[Path, Path]:
    """Makes an attempt's folder with the checkpoint to go on from: the paths of checkpoint, weights.

    Earlier attempts' folders go: a job trains one slice at a time, so whoever works in one of these
    lost the lease. Later ones stay: then it is this attempt that lost it.
    Raises CheckpointError where the store lacks the checkpoint.
    """
    folder.mkdir(parents=True)
    for other in folder.parent.iterdir():
        if _order(other) < _order(folder):
            remove(other)
    file = folder / CHECKPOINT
    if checkpoint is not None:
        try:
            shutil.copyfile(store.path(checkpoint), file)
        except FileNotFoundError:
            raise CheckpointError(
                "The checkpoint that this training goes on from is not in the artefact folder. All "
                "workers need the same ARTIFACT_ROOT, and nobody else may remove files from it."
            ) from None
    return file, folder / WEIGHTS


def _order(folder: Path) -> tuple[int, ...]:
    """(unit, attempt), both of which rise."""
    return tuple(int(part) for part in folder.name.split("-"))


def keep(session: Session, store: ArtefactStore, folder: Path, result: Mapping[str, Any]) -> None:
    """Moves what a slice wrote to its places; the files are held until the transaction ends."""
    places = (("checkpoint", CHECKPOINT, ""), ("weights", WEIGHTS, WEIGHTS_SUFFIX))
    for name, file, suffix in places:
        digest = result[name]
        if digest is not None:
            CheckpointRepository(session).hold(digest)
            store.adopt(folder / file, digest, suffix)


def drop_superseded(
    session: Session, store: ArtefactStore, job_id: str, current: str | None
) -> None:
    """Removes the job's checkpoints but `current`, unless another job would go on from one."""
    checkpoints = CheckpointRepository(session)
    for digest in sorted(checkpoints.of_job(job_id) - {current}):
        if store.path(digest).exists():
            checkpoints.hold(digest)
            if not checkpoints.is_needed(digest, but_job=job_id):
                store.remove(digest)


def remove(folder: Path) -> None:
    """Removes a folder of attempts, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
