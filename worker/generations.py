"""The search stage of a job: its generations, and the rungs of each. Pure, as `coordinator`.

A generation is its evaluations and a unit for each shard of its first rung. At a rung's end racing
drops who is surely beaten (sparsevit.search.racing), and the shards of the next rung are opened for
the others alone; after the last one these are scored. Who cannot be evaluated has failed at the
rung's end (worker.splitting).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from service.domain.records import Evaluation, Proposal, Unit
from service.domain.status import EvaluationState, JobStatus, Stage, UnitKind
from sparsevit import metrics
from sparsevit.search import racing, stops
from sparsevit.search.moves import Evaluation as Scored
from sparsevit.sparsity.config import Genes
from worker import splitting
from worker.decisions import Decision, Drop, End, Failure, Generation, NewUnit, Score
from worker.job_rows import JobRows, searched_at
from worker.progress import estimated_finish, progress_of


def search(rows: JobRows) -> Decision:
    """The next transition of a job in its search, at one input after another."""
    rows = rows.at(searched_at(rows.job))
    pending = [row for row in rows.evaluations if row.state == EvaluationState.PENDING]
    if pending:
        return _end_rung(rows, pending)
    number = max((row.generation for row in rows.evaluations), default=-1) + 1
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
    progress = progress_of(rows.all_evaluations, {}, planned, last)
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
        progress=progress_of(rows.all_evaluations, {}, rows.planned, number),
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
    failures = tuple(
        Failure(row.id, found.failed[tuple(row.genes)])
        for row in pending
        if tuple(row.genes) in found.failed
    )
    pending = [row for row in pending if tuple(row.genes) not in found.failed]
    folds = _folds(units)
    done = len({unit.shard for unit in units})
    if done == shards:
        return _score(rows, number, pending, folds, failures)
    raced = any(row.rival_id for row in rows.evaluations if row.generation == number)
    end = next(end for end in racing.rungs(shards, raced) if end > done)
    dropped = _drops(rows, pending, folds, done)
    live = [row.genes for row in pending if row.id not in dropped]
    return Decision(
        drops=tuple(Drop(row_id, what) for row_id, what in dropped.items()),
        failures=failures,
        units=_units(rows, number, live, range(done, end)) if live else (),
        progress=progress_of(
            rows.all_evaluations, {}, rows.planned, number, len(dropped), len(failures)
        ),
    )


def _folds(units: Iterable[Unit]) -> dict[Genes, list[metrics.State]]:
    """The folds of each candidate in the order of the shards, as far as it came."""
    found: dict[Genes, list[metrics.State]] = {}
    scored = [u for u in units if u.kind == UnitKind.EVALUATE and u.result is not None]
    for unit in sorted(scored, key=lambda unit: unit.shard):
        assert unit.result is not None
        for genes, states in zip(unit.payload["candidates"], unit.result["states"], strict=True):
            found.setdefault(tuple(genes), []).extend(states)
    return found


def _drops(
    rows: JobRows,
    pending: Sequence[Evaluation],
    folds: dict[Genes, list[metrics.State]],
    done: int,
) -> dict[int, racing.Dropped]:
    images = rows.inspection["images"]
    return racing.drops(
        {row.id: folds[tuple(row.genes)] for row in pending},
        {row.id: row.rival_id for row in pending if row.rival_id is not None},
        rows.rival_folds,
        rows.inspection["metric"],
        racing.images_in(images, done, rows.inspection["shards"]),
        images,
    )


def _score(
    rows: JobRows,
    number: int,
    pending: Sequence[Evaluation],
    folds: dict[Genes, list[metrics.State]],
    failures: tuple[Failure, ...],
) -> Decision:
    spec = rows.inspection["metric"]
    scores = {
        row.id: metrics.value(metrics.merge(folds[tuple(row.genes)], spec), spec) for row in pending
    }
    kept = _possible_rivals(rows, pending, scores)
    return Decision(
        scores=tuple(
            Score(
                row.id,
                scores[row.id],
                rows.inspection["images"],
                folds[tuple(row.genes)] if tuple(row.genes) in kept else None,
            )
            for row in pending
        ),
        failures=failures,
        progress=progress_of(
            rows.all_evaluations, scores, rows.planned, number, failed=len(failures)
        ),
    )


def _possible_rivals(
    rows: JobRows, pending: Sequence[Evaluation], scores: Mapping[int, float]
) -> set[Genes]:
    """Of the candidates just scored, those that later ones may race against."""
    if not racing.races(rows.search["strategy"], rows.settings):
        return set()
    scored = [
        Scored(tuple(row.genes), row.generation, scores[row.id], row.latency_ms) for row in pending
    ]
    return {one.genes for one in racing.possible_rivals([*rows.history, *scored])}
