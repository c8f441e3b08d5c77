"""What a comparison settles before it trains: rows, budgets, and how long each row is trained.

Every sparse row has to meet the latency of a dense one that was made smaller. Their latencies are
measured first; the latency map, which the search needs anyway, is brought to the same scale by the
dense model at full size, which is in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparsevit.compare.cost import PLAN_STEPS, Case, step_seconds
from sparsevit.compare.models import Models
from sparsevit.compare.rows import Row, dense_rows, named, sparse_for, sparse_rows
from sparsevit.compare.settings import CompareSettings
from sparsevit.compare.sizes import padding_note
from sparsevit.compare.store import Store
from sparsevit.compare.timing import timed
from sparsevit.data.sources import open_training
from sparsevit.errors import BudgetUnreachable, DeviceDisturbed
from sparsevit.search.choices import dense_ms
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.latency_map import SCOPES, LatencyMap, Scope
from sparsevit.search.space import SearchSpace
from sparsevit.search.steps import Session
from sparsevit.sparsity.config import MAX_LEVEL, Genes
from sparsevit.training.plan import adaptation, fixed
from sparsevit.training.settings import TrainingSettings, recommended

Progress = Callable[[str, int, int], None]  # (stage, done, total)
ADAPTATION = "adaptation"
ADAPT_CHUNKS = 3
AIM = 0.98
"""Of the latency to meet, what sparse rows are searched for: predictions are off by a percent or two,
and a row that comes out slower than what it is compared with proves nothing."""


@dataclass(frozen=True)
class Plan:
    """rows: dense ones first. budgets: by dense row, in ms of the map. steps: optimiser steps of each
    row, and of the adaptation that sparse rows share. step_seconds: what one of them costs here.
    notes: what was left out, and why."""

    rows: tuple[Row, ...]
    latency_map: LatencyMap
    budgets: Mapping[str, float]
    steps: Mapping[str, int]
    step_seconds: Mapping[str, float]
    notes: tuple[str, ...]

    def quiet_ms(self) -> dict[str, float]:
        """By scope what dense takes here when it is left alone."""
        return {scope: dense_ms(self.latency_map, scope) for scope in SCOPES}

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": [row.to_dict() for row in self.rows],
            "map": self.latency_map.to_dict(),
            "budgets": dict(self.budgets),
            "steps": dict(self.steps),
            "step_seconds": dict(self.step_seconds),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Plan:
        return cls(
            tuple(Row.from_dict(row) for row in document["rows"]),
            LatencyMap.from_dict(document["map"]),
            document["budgets"],
            document["steps"],
            document["step_seconds"],
            tuple(document["notes"]),
        )


def settled(
    models: Models, full: Session, settings: CompareSettings, store: Store, tell: Progress
) -> Plan:
    """As an earlier run left it in the folder, or made now."""
    found = store.read("plan.json")
    if found is None:
        found = store.write("plan.json", _made(models, full, settings, tell).to_dict())
    return Plan.from_dict(found)


def training_settings(full: Session, settings: CompareSettings) -> TrainingSettings:
    """Of the dense row; the others differ in their steps alone."""
    return recommended(full.model.task, "finetune").updated(settings.training)


def _made(models: Models, full: Session, settings: CompareSettings, tell: Progress) -> Plan:
    size = (full.input["height"], full.input["width"])
    dense = dense_rows(full.model.backbone.config, size, settings)
    # Looked at now: what cannot be trained on must not be found out after the first row.
    data = open_training(full.dataset, full.model)
    data.check(lambda done, total: tell("checking the data set", done, total))
    full.splits.check()
    made = full.calibrate(lambda done, total: tell("calibrating", done, total))
    latency_map = LatencyMap.from_dict(made["map"])
    check_quiet(settings, "calibrated", latency_map.disturbed)
    sessions = {row.name: models.untrained(row) for row in dense}
    ratios = _ratios(sessions, latency_map, settings, tell)
    del ratios["dense"]
    space = SearchSpace(full.pairs, full.windows)
    budgets, notes = budgets_of(ratios, latency_map, space, settings.scope)
    notes += tuple(
        note
        for row in dense
        if (note := padding_note(full.model.backbone.config, row.name, row.size))
        and row.kind != "width"
    )
    rows = (*dense, *sparse_rows(size, uniform_of(latency_map, budgets, settings.scope)))
    training = training_settings(full, settings)
    cost = _costs(rows, sessions, full, training, tell)
    return Plan(
        rows,
        latency_map,
        budgets,
        equal_steps(rows, cost, training.steps_over(len(data)), settings.adapt_share),
        cost,
        notes,
    )


def _ratios(
    sessions: Mapping[str, Session],
    latency_map: LatencyMap,
    settings: CompareSettings,
    tell: Progress,
) -> dict[str, float]:
    """The latency of every dense row as a share of the first one's."""
    measured = timed(
        [(session, (0,) * sum(session.pairs)) for session in sessions.values()],
        settings.measure_seconds,
        {scope: dense_ms(latency_map, scope) for scope in SCOPES},
        lambda done, total: tell("timing the dense rows", done, total),
    )[settings.scope]
    check_quiet(settings, "timed", any(one.disturbed for one in measured))
    return {
        name: one.ratio / measured[0].ratio for name, one in zip(sessions, measured, strict=True)
    }


def check_quiet(settings: CompareSettings, what: str, disturbed: bool) -> None:
    """Raises DeviceDisturbed where that is to end the comparison."""
    if disturbed and settings.strict:
        raise DeviceDisturbed(
            f"Other work ran on the device while it was {what}, so no budget can be believed. Stop "
            "what else runs there and start the comparison again."
        )


def budgets_of(
    ratios: Mapping[str, float], latency_map: LatencyMap, space: SearchSpace, scope: Scope
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The latency that sparse rows have to meet, by dense row, in ms of the map; and what is said of
    the dense rows that no sparse config can meet, or need not.

    ratios: of the dense rows that were made smaller, as shares of the whole one's latency. Raises
    BudgetUnreachable where no budget is left.
    """
    budgets, notes = {}, []
    whole = dense_ms(latency_map, scope)
    for name, ratio in ratios.items():
        budget = AIM * ratio * whole
        fastest = FeasibleSet(space, latency_map, budget, scope).min_ms
        if ratio >= 1:
            notes.append(f"{name} is no faster than dense ({ratio:.2f} of it): nothing to meet.")
        elif fastest > budget:
            notes.append(
                f"{name} is faster than every sparse config: {budget:.2f} ms, they take "
                f"{fastest:.2f} ms or more."
            )
        else:
            budgets[name] = budget
    if not budgets:
        raise BudgetUnreachable(
            "No sparse row can be compared with a dense one: " + " ".join(notes)
        )
    return budgets, tuple(notes)


def uniform_of(
    latency_map: LatencyMap, budgets: Mapping[str, float], scope: Scope
) -> dict[str, Genes]:
    """By dense row the densest uniform config within its budget, else the sparsest there is."""
    found = {}
    for name, budget in budgets.items():
        every = [(level,) * len(latency_map.pair_ms) for level in range(1, MAX_LEVEL + 1)]
        within = (genes for genes in every if latency_map.predict(genes, scope) <= budget)
        found[name] = next(within, every[-1])
    return found


def _costs(
    rows: tuple[Row, ...],
    sessions: Mapping[str, Session],
    full: Session,
    training: TrainingSettings,
    tell: Progress,
) -> dict[str, float]:
    """Seconds of a training step of every row, and of the adaptation. A searched row is taken to cost
    what the uniform one of the same latency does: its config is not known yet."""
    cases = {
        name: Case(session, fixed(session.sparsity((0,) * sum(session.pairs))))
        for name, session in sessions.items()
    }
    for row in rows:
        if row.genes is not None:
            cases[row.name] = Case(full, fixed(full.sparsity(row.genes)))
    wandering = adaptation(full.pairs, full.score, training.seed, PLAN_STEPS)
    cases[ADAPTATION] = Case(full, wandering, ADAPT_CHUNKS)
    cost = step_seconds(
        cases,
        training,
        2 * full.measure_seconds,
        lambda done, total: tell("timing training steps", done, total),
    )
    searched = [row for row in rows if row.kind == "searched"]
    return cost | {
        row.name: cost[sparse_for(rows, "uniform", *row.against).name] for row in searched
    }


def equal_steps(
    rows: tuple[Row, ...], cost: Mapping[str, float], dense_steps: int, adapt_share: float
) -> dict[str, int]:
    """So many steps that every row trains as long as the dense one does in `dense_steps`."""
    seconds = dense_steps * cost[named(rows, "dense").name]
    found = {ADAPTATION: max(1, round(adapt_share * seconds / cost[ADAPTATION]))}
    for row in rows:
        share = 1 - adapt_share if row.sparse else 1.0
        found[row.name] = max(1, round(share * seconds / cost[row.name]))
    return found
