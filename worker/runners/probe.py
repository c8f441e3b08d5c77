"""probe: find out which image of a shard cannot be evaluated; see worker.splitting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsevit.data.base import shard_indices

if TYPE_CHECKING:
    from sparsevit.search.steps import Session


def run(
    session: Session, payload: Mapping[str, Any], report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Payload {"candidates", "shard", "shards", "images"} -> {} once these images are evaluated.

    images: [first, end) among those of the shard, or None: -> {"names": of all of them}.
    """
    search = session.splits.search
    indices = shard_indices(len(search), payload["shard"], payload["shards"])
    if payload["images"] is None:
        return {"names": [_name(search.files(index), index) for index in indices]}
    first, end = payload["images"]
    candidates = [tuple(genes) for genes in payload["candidates"]]
    session.states(search, candidates, indices[first:end], report)
    return {}


def _name(files: Sequence[Path], index: int) -> str:
    return str(files[0]) if files else f"{index} of the search split"
