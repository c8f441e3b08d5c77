"""adapt, finetune: one slice of a training, from one checkpoint to the next or to the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.db.artefacts import ArtefactStore
from worker import training_files

if TYPE_CHECKING:
    from sparsevit.search.steps import Session
    from worker.device import Progress


def adapt(session: Session, payload: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """Payload of `slices.first_slice`, plus "folder", "seconds" and "artifact_root".

    Returns {"step", "steps", "loss", "done", "checkpoint", "weights"}, the last two as the SHA-256
    of files in the folder: a checkpoint until it is done, weights then.
    """
    return _train(session, "adapt", payload, report)


def finetune(session: Session, payload: Mapping[str, Any], report: Progress) -> dict[str, Any]:
    """As `adapt`; the payload has the winner's "genes" as well."""
    return _train(session, "finetune", payload, report)


def _train(
    session: Session, kind: str, payload: Mapping[str, Any], report: Progress
) -> dict[str, Any]:
    from sparsevit.search.training import train
    from sparsevit.tasks.files import sha256_file

    store = ArtefactStore(Path(payload["artifact_root"]))
    checkpoint, weights = training_files.begin(
        Path(payload["folder"]), store, payload["checkpoint"]
    )
    genes = payload.get("genes")
    made = train(
        session,
        kind,
        payload["settings"],
        checkpoint,
        weights,
        genes=None if genes is None else tuple(genes),
        seconds=payload["seconds"],
        progress=report,
        enough=report.ending,
    )
    return {**made, "checkpoint": None if made["done"] else sha256_file(checkpoint)}
