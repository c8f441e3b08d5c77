"""`run_search`: a whole search in this process, without a server.

It takes the same steps as the service's coordinator and workers (steps.py, evolution.py,
choices.py), so it returns what a job would store.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsevit.errors import ConfigError, DeviceDisturbed, NoFeasibleConfig
from sparsevit.search import choices, resolutions
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.found import Searched, SearchResult
from sparsevit.search.generations import Evaluator, search
from sparsevit.search.history import History
from sparsevit.search.inputs import check_inputs
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.resolutions import at_resolution
from sparsevit.search.space import SearchSpace
from sparsevit.search.steps import MEASURE_SECONDS, Session
from sparsevit.search.stops import StopReason
from sparsevit.search.strategies import STRATEGIES
from sparsevit.search.training import train
from sparsevit.search.verify_again import winner_of
from sparsevit.sparsity.config import Genes
from sparsevit.tasks.base import TaskModel
from sparsevit.training.settings import Kind, TrainingSettings

Progress = Callable[[str, int, int], None]  # (stage, done, total)

_ERRORS = {error.code: error for error in (NoFeasibleConfig, DeviceDisturbed)}


def run_search(
    model: str | Path | TaskModel,
    dataset: str | Path | Mapping[str, Any],
    *,
    latency_budget_ms: float | None = None,
    latency_budget: str | None = None,
    latency_scope: Scope = "model",
    device: str = "cpu",
    input: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    score: str | None = None,
    strategy: str = "evolution",
    settings: EvolutionSettings | None = None,
    adapt: TrainingSettings | Mapping[str, Any] | None = None,
    finetune: TrainingSettings | Mapping[str, Any] | None = None,
    measure_seconds: float = MEASURE_SECONDS,
    progress: Progress | None = None,
) -> SearchResult:
    """Finds the config with the best metric within a latency budget, measured on this device.

    model: a checkpoint's path, `builtin:digits`, or a loaded model. dataset: a path, a built-in
    name, or a spec with `path`, `search_split`, `report_split`, `limit`, `holdout`.
    Give one of latency_budget_ms and latency_budget ("60%" of the dense latency measured here).
    input: height, width, batch, precision, mode, threads; or a list of up to four that differ in
    height and width: one search each, whose fronts are merged. Every setting of the search holds
    for each of them; a share as budget, an expected metric and an adaptation are the first one's.
    preprocess: fields of `Preprocess`, and `expected_dense_metric`: what the model is known to reach.
    adapt, finetune: settings of a training before the search, and of its winner after it; {} takes
    what is recommended for the task, None trains nothing.

    Raises DenseMetricMismatch where the model does not reach what was expected of it,
    BudgetUnreachable (with the nearest possible budget) before anything is trained or evaluated,
    NoFeasibleConfig when every finalist turned out too slow, DeviceDisturbed when too much else ran
    on the device to believe any latency, and the errors of loading.
    """
    if (latency_budget_ms is None) == (latency_budget is None):
        raise ConfigError("give one of latency_budget_ms and latency_budget.")
    if strategy not in STRATEGIES:
        raise ConfigError(f"strategy is one of {', '.join(STRATEGIES)}, not {strategy!r}.")
    budget = latency_budget_ms if latency_budget_ms is not None else latency_budget
    assert budget is not None
    inputs = [input or {}] if input is None or isinstance(input, Mapping) else list(input)
    check_inputs(inputs)
    asked = _Asked(
        budget,
        latency_scope,
        strategy,
        settings or EvolutionSettings(),
        progress or (lambda stage, done, total: None),
    )
    sessions = _Sessions(
        Session(
            model, dataset, device, inputs[0], preprocess, score, measure_seconds=measure_seconds
        )
    )
    with tempfile.TemporaryDirectory(prefix="sparsevit-") as folder:
        return _run(sessions, inputs[1:], _plain(adapt), _plain(finetune), asked, Path(folder))


@dataclass(frozen=True)
class _Asked:
    """What is searched for, and who is told."""

    budget: float | str
    scope: Scope
    strategy: str
    settings: EvolutionSettings
    tell: Progress

    def verify(self, done: int, total: int) -> None:
        self.tell("verify", done, total)


def _plain(settings: TrainingSettings | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return settings if settings is None or isinstance(settings, Mapping) else settings.to_dict()


def _run(
    sessions: _Sessions,
    more_inputs: Sequence[Mapping[str, Any]],
    adapt: Mapping[str, Any] | None,
    finetune: Mapping[str, Any] | None,
    asked: _Asked,
    folder: Path,
) -> SearchResult:
    """The way of a job; see worker.coordinator. folder: for checkpoints and weights."""
    inspection = sessions.session.inspect(adapt, finetune, more_inputs=more_inputs)
    places = [at_resolution(inspection, i) for i in range(resolutions.count(inspection))]
    calibrations = [
        sessions.at(place).calibrate(lambda done, total: asked.tell("calibrate", done, total))
        for place in places
    ]
    maps = [LatencyMap.from_dict(one["map"]) for one in calibrations]
    spaces = [choices.search_space(place, None) for place in places]
    budgets = choices.reachable_budgets(asked.budget, maps, spaces, asked.scope)
    if adapt is not None:
        sessions.session = _trained(sessions.at(places[0]), places[0], "adapt", folder, asked)
    store = _Pictures()
    found, searches = None, []
    for place, latency_map, space, budget_ms in zip(places, maps, spaces, budgets, strict=True):
        if budget_ms is None:
            searches.append(Searched(place["input"], latency_map, None, []))
            continue
        session = sessions.at(place)
        history, stop = _search(session, place, latency_map, space, budget_ms, asked)
        searches.append(Searched(place["input"], latency_map, stop, list(history)))
        measured = session.measure(
            choices.finalists(history, budget_ms),
            choices.best_uniform(space, latency_map, budget_ms, asked.scope),
            latency_map,
            asked.budget,
            asked.scope,
            _search_facts(history, stop, asked),
            store.keep,
            asked.verify,
            choices.dense_ratio(maps[0], latency_map, asked.scope),
        )
        if len(places) > 1:
            measured = resolutions.merged(found, measured, place["input"], store.keep)
        found = measured
    assert found is not None, "one of the inputs can meet the budget"
    receipts = {one["receipt"]["id"]: one["receipt"] for one in calibrations}
    receipts |= _checked(found)["receipts"]
    best = resolutions.resolution_of(inspection, found["document"]["input"])
    if finetune is not None:
        sessions.session = _trained(
            sessions.at(places[best]), places[best], "finetune", folder, asked, winner_of(found)
        )
        found = sessions.session.measure_again(
            found,
            maps[best],
            asked.budget,
            asked.scope,
            store.keep,
            asked.verify,
            choices.dense_ratio(maps[0], maps[best], asked.scope),
        )
        receipts |= _checked(found)["receipts"]
    return SearchResult(
        found["document"],
        found["front"],
        [one for search in searches for one in search.evaluations],
        receipts,
        maps[best],
        list(choices.verdicts(maps, budgets)),
        {name: store.content[kept] for name, kept in found["artefacts"].items()},
        _own_weights(sessions.session),
        searches,
    )


def _own_weights(session: Session) -> bytes | None:
    own = session.weights_source != "checkpoint"
    return Path(session.checkpoint).read_bytes() if own else None


@dataclass
class _Sessions:
    """The session of one input at a time: another is opened where its turn comes."""

    session: Session

    def at(self, inspection: Mapping[str, Any]) -> Session:
        if self.session.input != inspection["input"]:
            self.session = self.session.resized(inspection["input"])
        return self.session


@dataclass
class _Pictures:
    """Pictures by the name they are kept under."""

    content: dict[str, bytes] = field(default_factory=dict)

    def keep(self, name: str, content: bytes) -> str:
        kept = f"{len(self.content)}-{name}"
        self.content[kept] = content
        return kept


def _trained(
    session: Session,
    inspection: Mapping[str, Any],
    kind: Kind,
    folder: Path,
    asked: _Asked,
    genes: Genes | None = None,
) -> Session:
    """A session on the weights that a training makes of this one's."""
    weights = folder / f"{kind}.safetensors"
    train(
        session,
        kind,
        inspection[kind],
        folder / f"{kind}.ckpt",
        weights,
        genes=genes,
        progress=lambda done, total, loss: asked.tell(kind, done, total),
    )
    return Session(
        weights,
        session.dataset,
        str(session.device),
        **{name: inspection[name] for name in choices.SETTLED_BY_INSPECTION},
        weights_source="adapted" if kind == "adapt" else "finetuned",
        measure_seconds=session.measure_seconds,
    )


def _search(
    session: Session,
    inspection: Mapping[str, Any],
    latency_map: LatencyMap,
    space: SearchSpace,
    budget_ms: float,
    asked: _Asked,
) -> tuple[History, StopReason]:
    shards = inspection["shards"]
    evaluator = Evaluator(
        lambda candidates, shard: session.evaluate(candidates, shard, shards)["states"],
        inspection["metric"],
        inspection["images"],
        shards,
    )
    return search(
        asked.strategy,
        space,
        latency_map,
        budget_ms,
        asked.scope,
        asked.settings,
        evaluator,
        lambda done, total: asked.tell("search", done, total),
    )


def _search_facts(history: History, stop: StopReason, asked: _Asked) -> dict[str, Any]:
    return {
        "job_id": None,
        "strategy": asked.strategy,
        "seed": asked.settings.seed,
        "stop": stop,
        "evaluations": [
            {"genes": list(e.genes), "metric": e.metric, "latency_ms": e.latency_ms}
            for e in history
            if math.isfinite(e.metric)
        ],
    }


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """What was measured. Raises the error that a job would fail with."""
    if found["error"]:
        raise _ERRORS[found["error"]["code"]](found["error"]["message"])
    return found
