"""Whole jobs of the coordinator on plain rows: to their end, through trainings, and cut short."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service.domain.status import JobStatus, Stage, UnitKind, UnitState
from tests.worker import rows
from tests.worker.rows import INSPECTION, NOW, job, latency_map, unit
from tests.worker.world import World
from worker.coordinator import step
from worker.decisions import WAIT

SETTINGS = {"steps": rows.TRAINING_STEPS, "learning_rate": 1e-5}


def trained(
    adapt: dict[str, Any] | None = SETTINGS,
    finetune: dict[str, Any] | None = SETTINGS,
    **request: Any,
) -> World:
    """A job that adapts and fine-tunes, on weights that were never adapted."""

    class Trained(World):
        def finish(self, unit: Any, result: Any = None) -> None:
            if unit.kind == UnitKind.INSPECT and result is None:
                settled = {"adapted": False, "adapt": adapt, "finetune": finetune}
                result = INSPECTION | settled
            super().finish(unit, result)

    return Trained(request=rows.request(adapt=adapt, finetune=finetune, **request))


class TestWholeJob:
    def test_runs_to_its_end_with_every_candidate_counted_once(self) -> None:
        world = World()
        world.run()
        assert world.job.status == JobStatus.SUCCEEDED
        assert len(world.evaluations) == 18
        assert len({row.config_key for row in world.evaluations}) == 18
        assert world.job.progress["done"] == world.job.progress["total"] == 18
        kinds = [u.kind for u in world.units]
        assert kinds.count(UnitKind.EVALUATE) == 9
        assert kinds[0] == UnitKind.INSPECT
        assert kinds[-1] == UnitKind.MEASURE

    @pytest.mark.parametrize("seed", range(5))
    def test_the_order_in_which_units_end_changes_nothing(self, seed: int) -> None:
        undisturbed, shuffled = trained(), trained()
        undisturbed.run()
        shuffled.run(random.Random(seed).choice)
        assert shuffled.evaluations == undisturbed.evaluations
        assert shuffled.job == undisturbed.job

    def test_another_seed_proposes_others(self) -> None:
        one, other = World(), World(request=rows.request(search={"seed": 8}))
        one.run()
        other.run()
        assert [row.genes for row in one.evaluations] != [row.genes for row in other.evaluations]

    def test_a_step_taken_twice_is_the_same_step(self) -> None:
        world = World()
        world.run()
        again = step(world.job, world.units, world.evaluations, [latency_map()])
        assert again == WAIT


class TestTraining:
    def reach(self, world: World, stage: Stage) -> World:
        world.settle()
        while world.job.stage != stage:
            world.finish(world.pending[0])
            world.settle()
        return world

    def kinds(self, world: World) -> list[str]:
        """What the job did, each run of equal kinds once."""
        found = [str(unit.kind) for unit in world.units]
        return [kind for i, kind in enumerate(found) if i == 0 or found[i - 1] != kind]

    def test_a_job_goes_all_the_way(self) -> None:
        world = trained()
        world.run()
        assert world.job.status == JobStatus.SUCCEEDED
        assert self.kinds(world) == [
            "inspect", "calibrate", "adapt", "evaluate", "measure", "finetune", "measure",
        ]  # fmt: skip
        assert world.job.result["weights"] == "finetuned"
        assert world.job.weights["source"] == "finetuned"
        assert world.job.verdicts == []
        assert world.job.progress["training"] is None
        assert world.job.progress["done"] == 18

    @pytest.mark.parametrize(
        ("adapt", "verdicts"), [(SETTINGS, []), (None, ["SUPERNET_NOT_ADAPTED"])]
    )
    def test_weights_are_not_adapted_only_where_nobody_adapts_them(
        self, adapt: dict[str, Any] | None, verdicts: list[str]
    ) -> None:
        world = trained(adapt=adapt)
        world.run()
        assert world.job.verdicts == verdicts
        assert ("adapt" in self.kinds(world)) == (adapt is not None)

    def test_a_slice_goes_on_where_the_last_one_ended(self) -> None:
        world = self.reach(trained(), Stage.ADAPT)
        (first,) = world.pending
        assert (first.kind, first.generation, first.shard) == (UnitKind.ADAPT, -1, 0)
        assert first.payload == {"settings": SETTINGS, "step": 0, "checkpoint": None}
        assert world.job.progress["total"] == 18
        world.settle()
        assert world.pending == [first]
        world.finish(first)
        world.settle()
        (second,) = world.pending
        made = rows.simulated_result(first)
        assert (second.kind, second.shard) == (UnitKind.ADAPT, 1)
        assert second.payload == first.payload | {"step": 2, "checkpoint": made["checkpoint"]}
        assert world.job.progress["training"] == {"step": 2, "steps": 5, "loss": 0.5}
        assert world.job.weights is None

    def test_the_last_slice_hands_over_its_weights_and_the_search_begins(self) -> None:
        world = self.reach(trained(), Stage.SEARCH)
        slices = [unit for unit in world.units if unit.kind == UnitKind.ADAPT]
        assert [unit.shard for unit in slices] == [0, 1, 2]
        weights = slices[-1].result["weights"]
        assert world.job.weights == {"sha256": weights, "source": "adapted"}
        assert world.job.progress["training"] is None

    def test_the_pace_of_a_slice_says_when_the_training_is_over(self) -> None:
        world = self.reach(trained(), Stage.ADAPT)
        (first,) = world.pending
        world.finish(first)
        minute = timedelta(minutes=1)
        world.units[-1] = replace(world.units[-1], started_at=NOW, finished_at=NOW + 2 * minute)
        world.settle()
        # Two of five steps took two minutes.
        assert world.decisions[-1].estimated_finish_at == NOW + 5 * minute

    def test_a_budget_out_of_reach_ends_it_before_any_training(self) -> None:
        world = trained(latency_budget_ms=0.01)
        world.run()
        assert world.job.error["code"] == "BUDGET_UNREACHABLE"
        assert self.kinds(world) == ["inspect", "calibrate"]

    def test_the_winner_is_fine_tuned_and_measured_again(self) -> None:
        world = self.reach(trained(), Stage.FINETUNE)
        measured = next(u.result for u in world.units if u.kind == UnitKind.MEASURE)
        assert world.job.front == measured["front"]  # to be seen meanwhile
        assert world.decisions[-1].receipts == measured["receipts"]
        winner = measured["front"][0]["genes"]
        while world.job.stage == Stage.FINETUNE:
            assert world.pending[0].payload["genes"] == winner
            world.finish(world.pending[0])
            world.settle()
        (again,) = world.pending
        assert (again.kind, again.shard) == (UnitKind.MEASURE, 0)
        assert again.payload["found"]["document"] == measured["document"]
        assert (again.payload["budget"], again.payload["scope"]) == ("60%", "model")

    def test_a_search_without_a_winner_fine_tunes_nothing(self) -> None:
        world = self.reach(trained(), Stage.VERIFY)
        measure = world.pending[0]
        error = {"code": "NO_FEASIBLE_CONFIG", "message": "raise the budget"}
        world.finish(measure, rows.simulated_result(measure) | {"document": None, "error": error})
        world.settle()
        assert (world.job.status, world.job.error) == (JobStatus.FAILED, error)
        assert "finetune" not in self.kinds(world)

    def test_a_dry_run_trains_nothing(self) -> None:
        world = trained()
        world.job = replace(world.job, dry_run=True)
        world.run()
        assert world.job.status == JobStatus.SUCCEEDED
        assert self.kinds(world) == ["inspect", "calibrate"]


class TestEnds:
    @pytest.mark.parametrize("kind", [kind for kind in UnitKind if kind != UnitKind.PROBE])
    def test_a_failed_unit_fails_the_job_with_its_error(self, kind: UnitKind) -> None:
        world = trained()
        world.settle()
        while world.pending[0].kind != kind:
            world.finish(world.pending[0])
            world.settle()
        world.fail(world.pending[0], "CHECKPOINT_UNSAFE")
        world.settle()
        assert world.job.status == JobStatus.FAILED
        assert world.job.error == {"code": "CHECKPOINT_UNSAFE", "message": "what to do"}

    @pytest.mark.parametrize("status", [s for s in JobStatus if s.terminal])
    def test_a_job_that_has_ended_takes_no_step(self, status: JobStatus) -> None:
        failed = unit(UnitKind.INSPECT, UnitState.FAILED)
        assert step(job(status=status), [failed], [], [None]) == WAIT

    def test_a_cancelled_job_waits_for_its_leased_units(self) -> None:
        cancelling = job(status=JobStatus.CANCELLING)
        leased = unit(UnitKind.INSPECT, UnitState.LEASED)
        assert step(cancelling, [leased], [], [None]) == WAIT
        cancelled = replace(leased, state=UnitState.CANCELLED)
        end = step(cancelling, [cancelled], [], [None]).end
        assert end.status == JobStatus.CANCELLED

    def test_cancelling_wins_over_a_unit_that_failed_or_finished_meanwhile(self) -> None:
        cancelling = job(status=JobStatus.CANCELLING)
        for state in (UnitState.DONE, UnitState.FAILED):
            end = step(cancelling, [unit(UnitKind.MEASURE, state)], [], [None]).end
            assert end.status == JobStatus.CANCELLED
