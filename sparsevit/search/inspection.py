"""inspect: what a request left open, settled once for every session of its search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsevit.search.dense_check import check_dense_metric, dense_metric
from sparsevit.search.inputs import check_inputs
from sparsevit.search.latency_map import map_key
from sparsevit.search.training import settled_settings

if TYPE_CHECKING:
    from sparsevit.search.steps import Session


def inspect(
    session: Session,
    adapt: Mapping[str, Any] | None = None,
    finetune: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    more_inputs: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The findings, JSON. adapt, finetune: settings, as asked for. more_inputs: those of the search
    beside the session's own; "resolutions" then has what differs between them all, its own first.

    The files of every split that is used are checked first.
    Raises DenseMetricMismatch where the dense model is not what it was expected to be at the
    session's input, DatasetError where a training is asked for that its split does not allow, and
    ConfigError for two inputs of one size.
    """
    session.splits.check(progress)
    settled = settled_settings(session, {"adapt": adapt, "finetune": finetune}, progress)
    own = _of_size(session, check_dense_metric(session))
    found = {
        "architecture": session.model.backbone.config.to_dict() | {"pairs": list(session.pairs)},
        "task": session.model.task,
        "checkpoint_sha256": session.model.weights_sha256,
        "dataset_sha256": session.dataset_sha256(),
        "score": session.score,
        "splits": {"search": len(session.splits.search), "report": len(session.splits.report)},
        "metric": session.model.metric,
        "images": len(session.splits.search),
        "shards": session.shards,
        "evaluation_threads": session.evaluation_threads,
        "adapted": session.model.adapted is not None,
        "device": session.device_facts["model"],
        **own,
        **settled,
    }
    if not more_inputs:
        return found
    sizes = [own, *(_settled_at(session, one) for one in more_inputs)]
    check_inputs([one["input"] for one in sizes])
    return {**found, "resolutions": sizes}


def _of_size(session: Session, dense: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the size of the input decides."""
    return {
        "input": session.input,
        "preprocess": session.preprocess.to_dict(),
        "windows": list(session.windows),
        "latency_map_key": map_key(session.map_facts()),
        "dense_metric": dense,
    }


def _settled_at(session: Session, input: Mapping[str, Any]) -> dict[str, Any]:
    other = session.resized(input)
    # What the model is known to reach holds for the first size: at others it is only told.
    return _of_size(other, dense_metric(other))
