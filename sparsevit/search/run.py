"""`run_search`: a whole search in this process, without a server.

It takes the same steps as the service's coordinator and workers (steps.py, evolution.py,
choices.py), so it returns what a job would store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsevit import metrics
from sparsevit.errors import ConfigError, DeviceDisturbed, NoFeasibleConfig
from sparsevit.search import choices
from sparsevit.search.evolution import STRATEGIES, Evaluation, EvolutionSettings
from sparsevit.search.latency_map import LatencyMap, Scope
from sparsevit.search.steps import MEASURE_SECONDS, Session
from sparsevit.sparsity.config import Genes
from sparsevit.tasks.base import TaskModel

Progress = Callable[[str, int, int], None]  # (stage, done, total)

_ERRORS = {error.code: error for error in (NoFeasibleConfig, DeviceDisturbed)}


@dataclass
class SearchResult:
    """What a search found; the same documents that the service stores.

    document: the best config JSON (`save` writes it, `sparsevit.load_config` reads it).
    front: Pareto front, fastest first. evaluations: every candidate in the order of proposal.
    artefacts: name -> bytes of the pictures. receipts: id -> latency receipt.
    """

    document: dict[str, Any]
    front: list[dict[str, Any]]
    evaluations: list[Evaluation]
    receipts: dict[str, dict[str, Any]]
    latency_map: LatencyMap
    verdicts: list[str]
    artefacts: dict[str, bytes] = field(repr=False)

    def save(self, folder: str | Path) -> Path:
        """Writes best.json and the pictures; returns the path of best.json."""
        import json

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.artefacts.items():
            (folder / name).write_bytes(content)
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
    measure_seconds: float = MEASURE_SECONDS,
    progress: Progress | None = None,
) -> SearchResult:
    """Finds the config with the best metric within a latency budget, measured on this device.

    model: a checkpoint's path, `builtin:digits`, or a loaded model. dataset: a path, a built-in
    name, or a spec with `path`, `search_split`, `report_split`, `limit`, `holdout`.
    Give one of latency_budget_ms and latency_budget ("60%" of the dense latency measured here).

    Raises BudgetUnreachable (with the nearest possible budget) before anything is evaluated,
    NoFeasibleConfig when every finalist turned out too slow, DeviceDisturbed when too much else ran
    on the device to believe any latency, and the errors of loading.
    """
    if (latency_budget_ms is None) == (latency_budget is None):
        raise ConfigError("give one of latency_budget_ms and latency_budget.")
    if strategy not in STRATEGIES:
        raise ConfigError(f"strategy is one of {', '.join(STRATEGIES)}, not {strategy!r}.")
    tell = progress or (lambda stage, done, total: None)
    session = Session(
        model, dataset, device, input, preprocess, score, measure_seconds=measure_seconds
    )
    inspection = session.inspect()
    calibration = session.calibrate(lambda done, total: tell("calibrate", done, total))
    latency_map = LatencyMap.from_dict(calibration["map"])
    space = choices.search_space(inspection, None)
    budget = latency_budget_ms if latency_budget_ms is not None else latency_budget
    budget_ms = choices.reachable_budget(budget, latency_map, space, latency_scope)
    settings = settings or EvolutionSettings()
    history: list[Evaluation] = []
    for generation in range(settings.generations):
        proposals = STRATEGIES[strategy](
            space, latency_map, budget_ms, latency_scope, settings, history, generation
        )
        if not proposals:
            break
        tell("search", len(history), len(history) + len(proposals))
        states = session.evaluate(proposals, 0, 1)["states"]
        history += [
            Evaluation(
                genes,
                generation,
                metrics.value(state, inspection["metric"]),
                float(latency_map.predict(genes, latency_scope)),
            )
            for genes, state in zip(proposals, states, strict=True)
        ]
    return _conclude(
        session,
        latency_map,
        budget,
        latency_scope,
        history,
        (strategy, settings.seed),
        tell,
        choices.finalists(history, budget_ms),
        choices.best_uniform(space, latency_map, budget_ms, latency_scope),
        calibration,
    )


def _conclude(
    session: Session,
    latency_map: LatencyMap,
    budget: float | str,
    scope: Scope,
    history: list[Evaluation],
    origin: tuple[str, int],
    tell: Progress,
    finalists: list[Genes],
    uniform: list[Genes],
    calibration: Mapping[str, Any],
) -> SearchResult:
    pictures: dict[str, bytes] = {}

    def keep(name: str, content: bytes) -> str:
        pictures[name] = content
        return name

    facts = {
        "job_id": None,
        "strategy": origin[0],
        "seed": origin[1],
        "evaluations": [
            {"genes": list(e.genes), "metric": e.metric, "latency_ms": e.latency_ms}
            for e in history
        ],
    }
    found = session.measure(
        finalists,
        uniform,
        latency_map,
        budget,
        scope,
        facts,
        keep,
        lambda done, total: tell("verify", done, total),
    )
    if found["error"]:
        raise _ERRORS[found["error"]["code"]](found["error"]["message"])
    verdicts = list(choices.map_verdicts(latency_map))
    receipts = {calibration["receipt"]["id"]: calibration["receipt"], **found["receipts"]}
    return SearchResult(
        found["document"], found["front"], history, receipts, latency_map, verdicts, pictures
    )
