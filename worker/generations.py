"""The search stage of a job: its generations, and the rungs of each. Pure, as `coordinator`.

A generation is its evaluations and a unit for each shard of its first rung. At a rung's end racing
drops who is surely beaten (sparsevit.search.racing), and the shards of the next rung are opened for
the others alone; after the last one these are scored. Who cannot be evaluated has failed at the
rung's end (worker.splitting).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from service.domain.records import Ending, Evaluation, Proposal, Unit
from service.domain.status import EvaluationState, JobStatus, Stage, UnitKind
from sparsevit import metrics
from sparsevit.search import racing, stops
from sparsevit.search.moves import Evaluation as Scored
from sparsevit.search.racing import Folds
from sparsevit.sparsity.config import Genes
from worker import splitting
from worker.decisions import Decision, End, Generation, NewUnit
from worker.job_rows import JobRows, searched_at
from worker.progress import estimated_finish, progress_of


def search(rows: JobRows) -> Decision:
    """The next transition of a job in its search, at one input after another."""
    rows = rows.at(searched_at(rows.job))
    # At this input: the earlier ones have ended, and the later ones not begun.
    pending = [row for row in rows.all_evaluations.open if row.state == EvaluationState.PENDING]
    if pending:
        return _end_rung(rows, pending)
    number = rows.all_evaluations.generations(rows.resolution)
    turn = stops.next_turn(
        rows.search["strategy"],
        rows.space,
        rows.map,
        rows.feasible.budget_ms,
        rows.scope,
        rows.settings,
        rows.history,
        number,
    )
    if turn.stop is None:
        return _open_generation(rows, number, turn.proposals)
    errors = [row.error for row in rows.evaluations if row.state == EvaluationState.FAILED]
    if len(errors) == len(rows.evaluations) > 0:
        # On one shard or another each of them failed: there is nothing to measure.
        return Decision(end=End(JobStatus.FAILED, error=errors[0]))
    return _end(rows, number - 1, turn.stop)


def _end(rows: JobRows, last: int, stop: str) -> Decision:
    """The end of the search at an input: that of the stage, unless another input waits."""
    told = rows.told(stop=stop, planned=len(rows.evaluations))
    waits = told is not None and any(row["reachable"] and row["stop"] is None for row in told)
    planned = len(rows.evaluations) if told is None else sum(row["planned"] for row in told)
    progress = progress_of(rows.all_evaluations, (), planned, last)
    return Decision(
        stage=None if waits else Stage.VERIFY,
        resolutions=told,
        progress={**progress, "stop": None if waits else stop},
    )


def _open_generation(rows: JobRows, number: int, candidates: Sequence[Genes]) -> Decision:
    predicted = rows.map.predict(candidates, rows.scope).tolist()
    rivals = racing.rivals(rows.search["strategy"], rows.settings, rows.history, predicted)
    known = {tuple(row.genes): row.id for row in rows.evaluations} if any(rivals) else {}
    proposals = tuple(
        Proposal(
            json.dumps(rows.space.key(genes)),
            list(genes),
            ms,
            None if rival is None else known[rival.genes],
        )
        for genes, ms, rival in zip(candidates, predicted, rivals, strict=True)
    )
    first = racing.rungs(rows.inspection["shards"], racing=any(rivals))[0]
    return Decision(
        generation=Generation(number, proposals, rows.resolution),
        units=_units(rows, number, candidates, range(first)),
        progress=progress_of(rows.all_evaluations, (), rows.planned, number),
        estimated_finish_at=estimated_finish(rows),
    )


def _units(
    rows: JobRows, number: int, candidates: Iterable[Sequence[int]], shards: Iterable[int]
) -> tuple[NewUnit, ...]:
    payload = {
        "generation": number,
        "candidates": [list(genes) for genes in candidates],
        "shards": rows.inspection["shards"],
    }
    return tuple(
        NewUnit(
            UnitKind.EVALUATE,
            {**payload, "shard": shard},
            number,
            shard,
            resolution=rows.resolution,
        )
        for shard in shards
    )


def _end_rung(rows: JobRows, pending: Sequence[Evaluation]) -> Decision:
    number, shards = pending[0].generation, rows.inspection["shards"]
    units = [unit for unit in rows.units if unit.generation == number]
    found = splitting.gather(units, rows.inspection["images"], shards)
    if found.error is not None:
        return Decision(end=End(JobStatus.FAILED, error=found.error))
    if not found.done:
        return Decision(units=found.units)  # where there are none, it waits
    failed = [
        Ending.failed(row.id, dict(found.failed[tuple(row.genes)]))
        for row in pending
        if tuple(row.genes) in found.failed
    ]
    pending = [row for row in pending if tuple(row.genes) not in found.failed]
    folds = _folds(units, rows.inspection["metric"])
    done = len({unit.shard for unit in units})
    if done == shards:
        return _ended(rows, number, [*failed, *_scored(rows, pending, folds)])
    raced = any(row.rival_id for row in rows.all_evaluations.newest)
    end = next(end for end in racing.rungs(shards, raced) if end > done)
    dropped = _dropped(rows, pending, folds, done)
    out = {ending.evaluation_id for ending in dropped}
    live = [row.genes for row in pending if row.id not in out]
    units = _units(rows, number, live, range(done, end)) if live else ()
    return replace(_ended(rows, number, [*failed, *dropped]), units=units)


def _ended(rows: JobRows, number: int, endings: Sequence[Ending]) -> Decision:
    """Candidates of a generation that end at a rung's end."""
    progress = progress_of(rows.all_evaluations, endings, rows.planned, number)
    return Decision(endings=tuple(endings), progress=progress)


def _folds(units: Iterable[Unit], spec: metrics.Spec) -> dict[Genes, Folds]:
    """The folds of each candidate in the order of the shards, as far as it came."""
    found: dict[Genes, list[Folds | metrics.Packed]] = {}
    scored = [u for u in units if u.kind == UnitKind.EVALUATE and u.result is not None]
    for unit in sorted(scored, key=lambda unit: unit.shard):
        assert unit.result is not None
        for genes, states in zip(unit.payload["candidates"], unit.result["states"], strict=True):
            found.setdefault(tuple(genes), []).append(states)
    return {genes: metrics.joined(parts, spec) for genes, parts in found.items()}


def _dropped(
    rows: JobRows, pending: Sequence[Evaluation], folds: Mapping[Genes, Folds], done: int
) -> list[Ending]:
    images = rows.inspection["images"]
    found = racing.drops(
        {row.id: folds[tuple(row.genes)] for row in pending},
        {row.id: row.rival_id for row in pending if row.rival_id is not None},
        rows.rival_folds,
        rows.inspection["metric"],
        racing.images_in(images, done, rows.inspection["shards"]),
        images,
    )
    return [
        Ending.dropped(row_id, one.metric, one.interval, one.images)
        for row_id, one in found.items()
    ]


def _scored(
    rows: JobRows, pending: Sequence[Evaluation], folds: Mapping[Genes, Folds]
) -> list[Ending]:
    spec, images = rows.inspection["metric"], rows.inspection["images"]
    scores = {
        row.id: metrics.value(metrics.merge(folds[tuple(row.genes)], spec), spec) for row in pending
    }
    kept = _possible_rivals(rows, pending, scores)
    return [
        Ending.done(
            row.id,
            scores[row.id],
            images,
            metrics.packed(folds[tuple(row.genes)], spec) if tuple(row.genes) in kept else None,
        )
        for row in pending
    ]


def _possible_rivals(
    rows: JobRows, pending: Sequence[Evaluation], scores: Mapping[int, float]
) -> set[Genes]:
    """Of the candidates just scored, those that later ones may race against."""
    if not racing.races(rows.search["strategy"], rows.settings):
        return set()
    scored = [
        Scored(tuple(row.genes), row.generation, scores[row.id], row.latency_ms) for row in pending
    ]
    # Who is not on the front of the earlier ones will never be on that of all.
    earlier = racing.possible_rivals(rows.history)
    return {one.genes for one in racing.possible_rivals([*earlier, *scored])}
