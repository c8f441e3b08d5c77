"""`run_search`: a whole search in this process, without a server.

It takes the same steps as the service's coordinator and workers (steps.py, evolution.py,
choices.py), so it returns what a job would store.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsevit.errors import ConfigError, DeviceDisturbed, NoFeasibleConfig
from sparsevit.search import choices
from sparsevit.search.evolution import Evaluation, EvolutionSettings
from sparsevit.search.generations import Evaluator, search
from sparsevit.search.history import History
from sparsevit.search.latency_map import LatencyMap, Scope
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


@dataclass
class SearchResult:
    """What a search found; the same documents that the service stores.

    document: the best config JSON (`save` writes it, `sparsevit.load_config` reads it).
    front: Pareto front, fastest first. evaluations: every candidate in the order of proposal.
    artefacts: name -> bytes of the pictures. receipts: id -> latency receipt. weights: the
    safetensors that `document` was measured with, where the search trained; None: the model's own.
    """

    document: dict[str, Any]
    front: list[dict[str, Any]]
    evaluations: list[Evaluation]
    receipts: dict[str, dict[str, Any]]
    latency_map: LatencyMap
    verdicts: list[str]
    artefacts: dict[str, bytes] = field(repr=False)
    weights: bytes | None = field(default=None, repr=False)

    def save(self, folder: str | Path) -> Path:
        """Writes best.json, the pictures and, where the search made them, weights.safetensors;
        returns the path of best.json."""
        import json

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.artefacts.items():
            (folder / name).write_bytes(content)
        if self.weights is not None:
            (folder / "weights.safetensors").write_bytes(self.weights)
        best = folder / "best.json"
        best.write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")
        return best


def run_search(
    model: str | Path | TaskModel,
    dataset: str | Path | Mapping[str, Any],
    *,
    latency_budget_ms: float | None = None,
    latency_budget: str | None = None,
    latency_scope: Scope = "model",
    device: str = "cpu",
    input: Mapping[str, Any] | None = None,
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
    session = Session(
        model, dataset, device, input, preprocess, score, measure_seconds=measure_seconds
    )
    asked = _Asked(
        budget,
        latency_scope,
        strategy,
        settings or EvolutionSettings(),
        progress or (lambda stage, done, total: None),
    )
    with tempfile.TemporaryDirectory(prefix="sparsevit-") as folder:
        return _run(session, _plain(adapt), _plain(finetune), asked, Path(folder))


@dataclass(frozen=True)
class _Asked:
    """What is searched for, and who is told."""

    budget: float | str
    scope: Scope
    strategy: str
    settings: EvolutionSettings
    tell: Progress


def _plain(settings: TrainingSettings | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return settings if settings is None or isinstance(settings, Mapping) else settings.to_dict()


def _run(
    session: Session,
    adapt: Mapping[str, Any] | None,
    finetune: Mapping[str, Any] | None,
    asked: _Asked,
    folder: Path,
) -> SearchResult:
    """The way of a job; see worker.coordinator. folder: for checkpoints and weights."""
    inspection = session.inspect(adapt, finetune)
    calibration = session.calibrate(lambda done, total: asked.tell("calibrate", done, total))
    latency_map = LatencyMap.from_dict(calibration["map"])
    space = choices.search_space(inspection, None)
    budget_ms = choices.reachable_budget(asked.budget, latency_map, space, asked.scope)
    if adapt is not None:
        session = _trained(session, inspection, "adapt", folder, asked)
    history, stop = _search(session, inspection, latency_map, space, budget_ms, asked)
    pictures: dict[str, bytes] = {}
    found = session.measure(
        choices.finalists(history, budget_ms),
        choices.best_uniform(space, latency_map, budget_ms, asked.scope),
        latency_map,
        asked.budget,
        asked.scope,
        _search_facts(history, stop, asked),
        lambda name, content: _keep(pictures, name, content),
        lambda done, total: asked.tell("verify", done, total),
    )
    receipts = {calibration["receipt"]["id"]: calibration["receipt"], **_checked(found)["receipts"]}
    if finetune is not None:
        session = _trained(session, inspection, "finetune", folder, asked, genes=winner_of(found))
        found = session.measure_again(
            found,
            latency_map,
            asked.budget,
            asked.scope,
            lambda name, content: _keep(pictures, name, content),
            lambda done, total: asked.tell("verify", done, total),
        )
        receipts |= _checked(found)["receipts"]
    made = None if session.weights_source == "checkpoint" else Path(session.checkpoint).read_bytes()
    verdicts = list(choices.map_verdicts(latency_map))
    return SearchResult(
        found["document"],
        found["front"],
        list(history),
        receipts,
        latency_map,
        verdicts,
        pictures,
        made,
    )


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


def _keep(pictures: dict[str, bytes], name: str, content: bytes) -> str:
    pictures[name] = content
    return name


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """What was measured. Raises the error that a job would fail with."""
    if found["error"]:
        raise _ERRORS[found["error"]["code"]](found["error"]["message"])
    return found
