"""A raced search of the real network, every unit and step through Postgres."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Engine

from service.db.artefacts import ArtefactStore
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.records import Job, Unit
from service.domain.status import EvaluationState, JobStatus, UnitKind
from sparsevit.search import choices, generations
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.steps import Session
from tests.sparsevit.maps import linear_map
from tests.worker import rows
from tests.worker.conftest import Database, NewJob
from worker.step_memory import StepMemory
from worker.tasks import advance


def test_a_job_on_digits_drops_in_the_database_what_the_library_drops(
    engine: Engine, database: Database, new_job: NewJob, tmp_path: Any
) -> None:
    """The real network on real images, every unit and every step through Postgres. Latencies are made
    up: sparsity saves nothing, so that every candidate races against the best one. By the score `l2`
    many configs see next to nothing of the digits."""
    session = Session(
        "builtin:digits",
        {"path": "builtin:digits", "limit": 18},
        input={"threads": 1},
        score="l2",
        evaluation_threads=1,
    )
    inspection = session.inspect()
    search = {"population": 4, "parents": 2, "generations": 2, "seed": 1}
    space = choices.search_space(inspection, (0, 8))
    made_map = replace(
        linear_map(space),
        pair_ms=((1.0,) * 9,) * space.gene_count,
        key=inspection["latency_map_key"],
    )
    budget_ms = made_map.dense_ms
    job = new_job(search=search | {"levels": [0, 8]}, latency_budget_ms=budget_ms)
    answers: dict[str, Any] = {
        "inspect": inspection,
        "calibrate": {"map": made_map.to_dict(), "receipt": made_map.receipt},
    }

    known: dict[Any, Any] = {}

    def on_shard(candidates: Sequence[tuple[int, ...]], shard: int) -> list[Any]:
        """Computed once for both searches."""
        new = [genes for genes in candidates if (genes, shard) not in known]
        states = session.evaluate(new, shard, session.shards)["states"] if new else []
        known.update({(genes, shard): one for genes, one in zip(new, states, strict=True)})
        return [known[genes, shard] for genes in candidates]

    def work(unit: Unit) -> dict[str, Any]:
        if unit.kind != UnitKind.EVALUATE:
            return answers.get(unit.kind) or rows.simulated_result(unit)
        candidates = [tuple(genes) for genes in unit.payload["candidates"]]
        return {"states": on_shard(candidates, unit.payload["shard"]), "seconds": 0.0}

    run_in_database(engine, tmp_path, job, inspection["device"], work)
    found = database.evaluations(job)
    assert database.job(job).status == JobStatus.SUCCEEDED
    assert {row.state for row in found} == {EvaluationState.DONE, EvaluationState.DROPPED}
    history, _ = generations.search(
        "evolution",
        space,
        made_map,
        budget_ms,
        "model",
        EvolutionSettings(**search),
        generations.Evaluator(on_shard, inspection["metric"], inspection["images"], session.shards),
    )
    assert [(one.genes, one.dropped.metric if one.dropped else one.metric) for one in history] == [
        (tuple(row.genes), row.metric) for row in found
    ]
    assert [None if one.dropped is None else list(one.dropped.interval) for one in history] == [
        row.metric_interval for row in found
    ]


def run_in_database(engine: Engine, folder: Any, job: Job, device: str, work: Any) -> None:
    """Claims, computes, finishes and steps until the job has ended; units in a random order, steps by
    one of two workers or by one that has just started."""
    rng, memories = random.Random(0), [StepMemory(), StepMemory(), None]
    while True:
        held = []
        with session_scope(engine) as session:
            while (unit := UnitRepository(session).claim("w", device, "uuid", 60)) is not None:
                JobRepository(session).start(job.id)
                held.append(unit)
        if not held:
            return
        rng.shuffle(held)
        for unit in held:
            with session_scope(engine) as session:
                assert UnitRepository(session).finish(unit.id, unit.attempt, work(unit))
        advance(engine, ArtefactStore(folder), job.id, rng.choice(memories))
