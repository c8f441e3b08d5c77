"""Racing in jobs: rung by rung, on plain rows, in the database, and with the real network."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from service.db.artefacts import ArtefactStore
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.records import Job, Unit
from service.domain.status import EvaluationState, JobStatus, Stage, UnitKind
from sparsevit import metrics
from sparsevit.search import choices, generations, racing
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.pareto import pareto_front
from sparsevit.search.steps import Session
from tests.sparsevit.maps import linear_map
from tests.worker import rows
from tests.worker.conftest import Database, NewJob
from tests.worker.rows import INSPECTION, MAP_KEY, latency_map
from tests.worker.world import World
from worker.coordinator import step
from worker.decisions import Decision
from worker.step_memory import StepMemory
from worker.tasks import advance

IMAGES, SHARDS = 512, 32
RUNGS = [4, 8, 16, 32]
TOP1 = {"name": "top1", "kind": "accuracy", "top": 1}
WIDE = INSPECTION | {"images": IMAGES, "shards": SHARDS, "metric": TOP1}
# Evolution proposes little that is beaten: random configs are.
SETTINGS = {"population": 8, "parents": 4, "generations": 4, "strategy": "random"}


def outcomes(genes: list[int], shard: int) -> list[list[int]]:
    """Folds of a made-up network on one shard of 16 images: genes that save alike cost unlike."""
    hard = np.random.default_rng(shard).normal(0, 2, 16)
    noise = np.random.default_rng([shard, *genes]).normal(0, 0.5, 16)
    quality = 3 - np.dot(genes, (0.6, 0.05, 0.3, 0.02))
    folds = np.array_split(hard + noise < quality, racing.folds_of_shard(SHARDS))
    return [[int(fold.sum()), int(fold.sum()), len(fold)] for fold in folds]


class Racing(World):
    """A job in its search, on 32 shards."""

    def __init__(self, **search: Any) -> None:
        super().__init__(
            latency_map(),
            stage=Stage.SEARCH,
            inspection=WIDE,
            latency_map_key=MAP_KEY,
            request=rows.request(search=SETTINGS | search),
        )

    def finish(self, unit: Unit, result: Mapping[str, Any] | None = None) -> None:
        if unit.kind == UnitKind.EVALUATE:
            payload = unit.payload
            states = [outcomes(genes, payload["shard"]) for genes in payload["candidates"]]
            result = {"states": states, "seconds": 0.1}
        super().finish(unit, result)

    def end_rung(self) -> None:
        assert not self.job.status.terminal
        for unit in self.pending:
            self.finish(unit)
        self.settle()

    def reach(self, generation: int) -> None:
        self.settle()
        while max(row.generation for row in self.evaluations) < generation:
            self.end_rung()

    def images_paid(self) -> int:
        evaluated = [unit for unit in self.units if unit.kind == UnitKind.EVALUATE]
        return sum(16 * len(unit.payload["candidates"]) for unit in evaluated)


def dropped_by(decision: Decision) -> set[int]:
    dropped = EvaluationState.DROPPED
    return {one.evaluation_id for one in decision.endings if one.state == dropped}


def raced(**search: Any) -> Racing:
    world = Racing(**search)
    world.run()
    assert world.job.status == JobStatus.SUCCEEDED
    return world


class TestRungs:
    def test_generation_0_does_not_race(self) -> None:
        world = Racing()
        world.settle()
        assert [unit.shard for unit in world.pending] == list(range(SHARDS))
        assert {row.rival_id for row in world.evaluations} == {None}

    def test_a_generation_opens_its_first_rung_alone(self) -> None:
        world = Racing()
        world.reach(1)
        assert [unit.shard for unit in world.pending] == list(range(RUNGS[0]))
        scored = {row.id: row for row in world.evaluations if row.generation == 0}
        of_generation = [row for row in world.evaluations if row.generation == 1]
        assert any(row.rival_id is not None for row in of_generation)
        for row in of_generation:
            if row.rival_id is not None:
                assert scored[row.rival_id].latency_ms <= row.latency_ms

    def test_at_its_end_the_beaten_are_dropped_and_the_others_go_on(self) -> None:
        world = Racing()
        world.settle()
        while not (dropped := dropped_by(world.decisions[-1])):
            world.end_rung()
        decision = world.decisions[-1]
        live = [row.genes for row in world.evaluations if row.state == EvaluationState.PENDING]
        opened = [unit.shard for unit in decision.units]
        rung = RUNGS.index(opened[0])
        assert opened == list(range(RUNGS[rung], RUNGS[rung + 1]))
        assert all(unit.payload["candidates"] == live for unit in decision.units)
        for row in world.evaluations:
            if row.id in dropped:
                assert row.state == EvaluationState.DROPPED
                assert row.images == 16 * RUNGS[rung]
                low, high = row.metric_interval
                assert low <= row.metric <= high

    def test_the_metric_is_that_of_all_shards_although_they_came_in_rungs(self) -> None:
        for row in raced().evaluations:
            shards = SHARDS if row.state == EvaluationState.DONE else row.images // 16
            folds = [fold for shard in range(shards) for fold in outcomes(row.genes, shard)]
            assert row.metric == metrics.value(metrics.merge(folds, TOP1), TOP1)

    def test_progress_counts_the_dropped_as_done_and_none_of_them_as_best(self) -> None:
        world = raced()
        count = dict.fromkeys(EvaluationState, 0)
        for row in world.evaluations:
            count[row.state] += 1
        assert count[EvaluationState.DROPPED] > 0
        assert world.job.progress["done"] == len(world.evaluations)
        done = [row for row in world.evaluations if row.state == EvaluationState.DONE]
        assert world.job.progress["best"]["metric"] == max(row.metric for row in done)

    def test_only_those_on_the_front_keep_their_folds(self) -> None:
        world = raced()
        kept = [row_id for row_id, folds in world.folds.items() if folds is not None]
        rivals = {row.rival_id for row in world.evaluations} - {None}
        assert rivals <= set(kept)
        done = [row for row in world.evaluations if row.state == EvaluationState.DONE]
        leading = set()  # on the front of what was known once their generation was over
        for generation in range(SETTINGS["generations"]):
            known = [row for row in done if row.generation <= generation]
            front = pareto_front([(row.latency_ms, -row.metric) for row in known])
            leading |= {known[i].id for i in front if known[i].generation == generation}
        assert set(kept) == leading
        assert len(kept) < len(done)

    def test_a_generation_whose_last_candidate_is_dropped_is_over(self) -> None:
        class Hopeless(Racing):
            def finish(self, unit: Unit, result: Mapping[str, Any] | None = None) -> None:
                super().finish(unit, result)
                if unit.generation > 0:
                    done = next(one for one in self.units if one.id == unit.id)
                    each = racing.folds_of_shard(SHARDS)
                    done.result["states"] = [[[0, 0, 2]] * each for _ in done.result["states"]]

        world = Hopeless(generations=3)
        world.run()
        later = [row for row in world.evaluations if row.generation > 0]
        with_rival = [row for row in later if row.rival_id is not None]
        assert {row.state for row in with_rival} == {EvaluationState.DROPPED}
        assert max(row.images for row in with_rival) < IMAGES
        assert world.job.status == JobStatus.SUCCEEDED


class TestOutcome:
    def test_racing_ends_with_the_same_best_config_for_fewer_images(self) -> None:
        paid = {True: 0, False: 0}
        for seed in range(4):
            best = {}
            for on in (True, False):
                world = raced(seed=seed, racing=on)
                best[on] = world.job.result["sparsity"]
                paid[on] += world.images_paid()
            assert best[True] == best[False]
        assert paid[True] < paid[False] / 1.1

    def test_switched_off_every_generation_opens_all_its_shards(self) -> None:
        world = raced(racing=False)
        assert {row.state for row in world.evaluations} == {EvaluationState.DONE}
        assert {row.rival_id for row in world.evaluations} == {None}
        assert set(world.folds.values()) == {None}
        opened = [unit for unit in world.units if unit.kind == UnitKind.EVALUATE]
        assert len(opened) == 4 * SHARDS

    @pytest.mark.parametrize("seed", range(4))
    def test_the_order_in_which_units_end_changes_nothing(self, seed: int) -> None:
        undisturbed, shuffled = raced(), Racing()
        shuffled.run(random.Random(seed).choice)
        assert shuffled.evaluations == undisturbed.evaluations
        assert shuffled.job == undisturbed.job
        assert shuffled.folds == undisturbed.folds

    def test_a_step_is_a_function_of_the_rows(self) -> None:
        """Whoever is killed between reading and writing, the next one decides the same."""
        world = Racing()
        world.reach(1)
        for unit in world.pending:
            world.finish(unit)
        args = (world.job, world.units, world.evaluations, [latency_map()], world.rival_folds)
        assert step(*args) == step(*args)
        shuffled = (world.job, world.units[::-1], world.evaluations[::-1], *args[3:])
        assert step(*shuffled) == step(*args)

    def test_what_was_dropped_is_no_finalist_and_is_not_told_to_the_measurement(self) -> None:
        world = raced()
        dropped = {
            tuple(row.genes) for row in world.evaluations if row.state == EvaluationState.DROPPED
        }
        payload = next(u.payload for u in world.units if u.kind == UnitKind.MEASURE)
        assert dropped
        assert not dropped & set(map(tuple, payload["finalists"]))
        assert not dropped & {tuple(one["genes"]) for one in payload["search"]["evaluations"]}


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
