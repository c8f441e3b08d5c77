"""inspect: read architecture, task, preprocessing and data off the files of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsevit.search.steps import Session


def run(
    session: Session, payload: Mapping[str, Any], report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Payload {"adapt", "finetune", "more_inputs"}, as asked for -> what `Session.inspect` tells.

    Raises CheckpointError, DatasetError, DenseMetricMismatch.
    """
    return session.inspect(
        payload["adapt"], payload["finetune"], report, payload.get("more_inputs", ())
    )
