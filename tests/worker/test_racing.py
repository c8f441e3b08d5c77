"""Racing in jobs, on plain rows: rung by rung, and what comes out."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from service.domain.records import Unit
from service.domain.status import EvaluationState, JobStatus, Stage, UnitKind
from sparsevit import metrics
from sparsevit.search import racing
from sparsevit.search.pareto import pareto_front
from tests.worker import rows
from tests.worker.rows import INSPECTION, MAP_KEY, latency_map
from tests.worker.world import World
from worker.coordinator import step
from worker.decisions import Decision

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
