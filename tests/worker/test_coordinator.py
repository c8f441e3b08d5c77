"""The coordinator on plain rows: every transition of a job, and that it takes no other way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.domain.status import EvaluationState, JobStatus, Stage, UnitKind, UnitState
from sparsevit import metrics
from sparsevit.search import answers, choices, feasible
from sparsevit.search.latency_map import map_key
from tests.worker import rows
from tests.worker.rows import INSPECTION, MAP_KEY, METRIC, job, latency_map, unit
from tests.worker.world import World
from worker.coordinator import step
from worker.decisions import WAIT


def ended(kind: UnitKind, result: dict[str, Any], **changes: Any) -> Any:
    return unit(kind, UnitState.DONE, result=result, **changes)


def inspected(**changes: Any) -> Any:
    return job(inspection=INSPECTION, device=INSPECTION["device"], **changes)


class TestInspect:
    def test_starts_with_an_inspection(self) -> None:
        decision = step(job(stage=None), [], [], [None])
        assert decision.stage == Stage.INSPECT
        assert [new.kind for new in decision.units] == [UnitKind.INSPECT]

    @pytest.mark.parametrize("state", [UnitState.PENDING, UnitState.LEASED])
    def test_waits_for_it(self, state: UnitState) -> None:
        assert step(job(), [unit(UnitKind.INSPECT, state)], [], [None]) == WAIT

    def test_its_result_fixes_the_device(self) -> None:
        decision = step(job(), [ended(UnitKind.INSPECT, INSPECTION)], [], [None])
        assert decision.stage == Stage.CALIBRATE
        assert decision.inspection == INSPECTION
        assert decision.device == "Testium 3000"
        assert decision.verdicts == ()

    def test_a_device_asked_for_stays(self) -> None:
        asked = job(device="Other 1")
        assert step(asked, [ended(UnitKind.INSPECT, INSPECTION)], [], [None]).device == "Other 1"

    def test_weights_never_adapted_are_a_verdict(self) -> None:
        result = INSPECTION | {"adapted": False}
        decision = step(job(), [ended(UnitKind.INSPECT, result)], [], [None])
        assert decision.verdicts == ("SUPERNET_NOT_ADAPTED",)


class TestCalibrate:
    def test_without_a_map_it_is_measured(self) -> None:
        decision = step(inspected(stage=Stage.CALIBRATE), [], [], [None])
        assert [new.kind for new in decision.units] == [UnitKind.CALIBRATE]

    def test_a_measured_map_is_kept(self) -> None:
        document = latency_map().to_dict()
        units = [ended(UnitKind.CALIBRATE, {"map": document, "receipt": {"id": "rcpt_1"}})]
        decision = step(inspected(stage=Stage.CALIBRATE), units, [], [None])
        assert decision.latency_map == document
        assert decision.latency_map_key == MAP_KEY
        space = choices.search_space(INSPECTION, None)
        assert decision.map_summary == answers.summary(latency_map(), space)

    def test_a_map_of_a_space_too_large_to_count_is_kept_without_figures(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feasible, "MAX_REST", 20)
        world = World(request=rows.request(search={"levels": [0, 4, 8]}))
        world.settle()
        for _ in range(2):
            world.finish(world.pending[0])
            world.settle()
        (kept,) = [one for one in world.decisions if one.latency_map is not None]
        assert kept.map_summary is None
        assert world.job.stage == Stage.SEARCH  # three levels leave a space that can be counted

    def test_a_map_under_older_versions_stays_unused(self) -> None:
        facts = rows.MAP_FACTS | {"versions": {"torch": "2.10"}}
        old = replace(latency_map(), key=map_key(facts), facts=facts)
        world = World(old)
        world.settle()
        world.finish(world.pending[0])  # the inspection, under the versions of now
        world.settle()
        assert [one.kind for one in world.pending] == [UnitKind.CALIBRATE]
        world.finish(world.pending[0])
        world.settle()
        assert world.job.latency_map_key == MAP_KEY != old.key
        assert world.job.latency["key"] == MAP_KEY

    def test_a_standing_map_is_reused(self) -> None:
        decision = step(inspected(stage=Stage.CALIBRATE), [], [], [latency_map()])
        assert decision.units == ()
        assert decision.stage == Stage.SEARCH
        assert decision.latency_map_key == MAP_KEY
        assert decision.receipts == {"rcpt_1": {"id": "rcpt_1"}}
        assert decision.progress["total"] == 18
        assert decision.verdicts == ()
        assert decision.latency["scopes"]["model"]["min_ms"] == pytest.approx(11.0)

    def test_latencies_are_those_of_the_levels_asked_for(self) -> None:
        request = rows.request(search={"levels": [0, 1, 2]})
        decision = step(inspected(stage=Stage.CALIBRATE, request=request), [], [], [latency_map()])
        figures = decision.latency["scopes"]["model"]
        assert figures["min_ms"] == pytest.approx(3.0 + 4 * 8.0)
        assert figures["configs"] == 3 * 3 * 6

    def test_a_heavy_head_is_a_verdict(self) -> None:
        decision = step(inspected(stage=Stage.CALIBRATE), [], [], [latency_map(head_ms=60.0)])
        assert decision.verdicts == ("HEAD_DOMINATES",)

    @pytest.mark.parametrize(
        ("budget", "scope", "nearest"),
        [
            # 4 pairs at level 8 cost 2 ms each; the fixed part is 3 ms, 2 of them the backbone's.
            # The nearest budget that is named leaves a margin for the measurement.
            ({"latency_budget_ms": 0.01}, "model", "11.000 ms"),
            ({"latency_budget_ms": 10.99}, "model", "11.000 ms"),
            ({"latency_budget_ms": 9.99}, "backbone", "10.000 ms"),
            ({"latency_budget": "25%", "latency_budget_ms": None}, "model", "26.9% of dense"),
            ({"latency_budget": "23%", "latency_budget_ms": None}, "backbone", "25.0% of dense"),
        ],
    )
    def test_an_unreachable_budget_names_the_nearest(
        self, budget: dict[str, Any], scope: str, nearest: str
    ) -> None:
        request = rows.request(latency_scope=scope, **budget)
        end = step(inspected(stage=Stage.CALIBRATE, request=request), [], [], [latency_map()]).end
        assert end.status == JobStatus.FAILED
        assert end.error["code"] == "BUDGET_UNREACHABLE"
        assert nearest in end.error["message"]

    def test_an_unreachable_budget_ends_the_job_at_once_with_its_figures(self) -> None:
        world = World(latency_map(), request=rows.request(latency_budget_ms=0.01))
        world.settle()
        world.finish(world.pending[0])
        world.settle()
        assert world.job.status == JobStatus.FAILED
        assert [one.kind for one in world.units] == [UnitKind.INSPECT]
        assert world.job.latency["scopes"]["model"]["nearest_ms"] == 11.55
        assert world.job.latency_map_key == MAP_KEY
        assert world.decisions[-1].receipts == {"rcpt_1": {"id": "rcpt_1"}}

    @pytest.mark.parametrize("budget", [0.01, 60.0])
    def test_a_dry_run_succeeds_here_whatever_its_budget(self, budget: float) -> None:
        world = World(dry_run=True, request=rows.request(latency_budget_ms=budget))
        world.run()
        assert world.job.status == JobStatus.SUCCEEDED
        assert world.job.result is None
        assert world.job.latency["key"] == world.job.latency_map_key == MAP_KEY
        assert [one.kind for one in world.units] == [UnitKind.INSPECT, UnitKind.CALIBRATE]
        assert world.evaluations == []

    def test_a_space_too_large_ends_the_job_with_the_librarys_reason(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(feasible, "MAX_REST", 1)
        end = step(inspected(stage=Stage.CALIBRATE), [], [], [latency_map()]).end
        assert end.status == JobStatus.FAILED
        assert end.error["code"] == "CONFIG_INVALID"
        assert "too large" in end.error["message"]

    @pytest.mark.parametrize(("budget", "scope"), [(11.0, "model"), (10.0, "backbone")])
    def test_the_nearest_budget_is_reachable(self, budget: float, scope: str) -> None:
        request = rows.request(latency_scope=scope, latency_budget_ms=budget)
        decision = step(inspected(stage=Stage.CALIBRATE, request=request), [], [], [latency_map()])
        assert decision.stage == Stage.SEARCH


class TestSearch:
    def opened(self, **changes: Any) -> World:
        world = World(
            latency_map(), stage=Stage.SEARCH, inspection=INSPECTION, latency_map_key=MAP_KEY
        )
        world.job = replace(world.job, **changes)
        world.settle()
        return world

    def test_a_generation_is_its_evaluations_and_a_unit_per_shard(self) -> None:
        world = self.opened()
        assert [row.position for row in world.evaluations] == list(range(6))
        assert {row.state for row in world.evaluations} == {EvaluationState.PENDING}
        assert [(u.kind, u.generation, u.shard) for u in world.units] == [
            (UnitKind.EVALUATE, 0, shard) for shard in range(3)
        ]
        for u in world.units:
            assert u.payload["candidates"] == [row.genes for row in world.evaluations]
            assert (u.payload["generation"], u.payload["shards"]) == (0, 3)
        budget = 0.6 * 43.0
        assert all(row.latency_ms <= budget for row in world.evaluations)
        assert world.job.progress == {
            "done": 0, "failed": 0, "total": 18, "generation": 0,
            "best": None, "stop": None, "training": None, "postponed": None,
        }  # fmt: skip

    def test_it_waits_for_every_shard(self) -> None:
        world = self.opened()
        for u in world.pending[:2]:
            world.finish(u)
        before = len(world.decisions)
        world.settle()
        assert len(world.decisions) == before
        assert {row.metric for row in world.evaluations} == {None}

    def test_shards_are_merged_by_candidate_then_the_next_generation_opens(self) -> None:
        world = self.opened()
        for u in reversed(world.pending):
            world.finish(u)
        world.settle()
        first = [row for row in world.evaluations if row.generation == 0]
        for row in first:
            states = [rows.score_state(row.genes, shard) for shard in range(3)]
            assert row.metric == metrics.value(metrics.merge(states, METRIC), METRIC)
            assert row.state == EvaluationState.DONE
        best = max(first, key=lambda row: row.metric)
        assert world.job.progress["done"] == 6
        assert world.job.progress["generation"] == 1
        assert world.decisions[-1].estimated_finish_at is not None
        assert world.job.progress["best"] == {
            "metric": best.metric,
            "latency_ms": best.latency_ms,
        }
        assert {row.generation for row in world.evaluations} == {0, 1}

    def test_levels_asked_for_are_the_only_ones(self) -> None:
        world = self.opened(request=rows.request(search={"levels": [0, 4, 8]}))
        world.run()
        assert {level for row in world.evaluations for level in row.genes} <= {0, 4, 8}

    def test_max_evaluations_ends_it(self) -> None:
        world = self.opened(request=rows.request(search={"max_evaluations": 8}))
        assert world.job.progress["total"] == 8
        world.run()
        assert len(world.evaluations) == 8

    def test_a_small_space_ends_when_nothing_is_left(self) -> None:
        world = self.opened(request=rows.request(search={"levels": [7, 8], "generations": 50}))
        world.run()
        assert len({row.config_key for row in world.evaluations}) == len(world.evaluations)
        assert world.job.progress["done"] == world.job.progress["total"] == len(world.evaluations)
        assert world.job.status == JobStatus.SUCCEEDED


class TestVerify:
    def verified(self, **changes: Any) -> World:
        world = World(latency_map(), **changes)
        world.settle()
        while world.job.stage != Stage.VERIFY:
            world.finish(world.pending[0])
            world.settle()
        return world

    def test_the_finalists_are_the_best_and_a_safe_one(self) -> None:
        world = self.verified()
        payload = world.pending[0].payload
        ranked = sorted(world.evaluations, key=lambda row: (-row.metric, row.latency_ms))
        budget = 0.6 * 43.0
        assert payload["budget"] == "60%"  # of the dense latency measured then
        assert payload["finalists"][:3] == [tuple(row.genes) for row in ranked[:3]]
        assert any(latency_map().predict(genes) <= 0.95 * budget for genes in payload["finalists"])
        assert len(set(payload["finalists"])) == len(payload["finalists"]) <= 5

    def test_the_baselines_are_the_densest_uniform_configs_within_the_budget(self) -> None:
        # Uniform level k is predicted at 3 + 4 * (10 - k) ms; the budget is 25.8 ms.
        assert self.verified().pending[0].payload["uniform"] == [(5,) * 4, (6,) * 4, (7,) * 4]

    def test_the_search_travels_with_them(self) -> None:
        world = self.verified()
        search = world.pending[0].payload["search"]
        assert (search["job_id"], search["strategy"], search["seed"]) == ("job_1", "evolution", 7)
        assert len(search["evaluations"]) == len(world.evaluations) == 18

    def test_its_result_ends_the_job(self) -> None:
        world = self.verified()
        world.finish(world.pending[0])
        world.settle()
        end = world.decisions[-1].end
        assert end.status == JobStatus.SUCCEEDED
        assert end.document is not None
        assert world.decisions[-1].front
        assert world.decisions[-1].artefacts == {"pareto.png": "a" * 64}
        assert world.decisions[-1].receipts == {"rcpt_2": {"id": "rcpt_2"}}

    def test_none_within_the_budget_fails_and_keeps_the_front(self) -> None:
        world = self.verified()
        measure = world.pending[0]
        error = {"code": "NO_FEASIBLE_CONFIG", "message": "raise the budget to 27 ms"}
        result = rows.simulated_result(measure) | {"document": None, "error": error}
        world.finish(measure, result)
        world.settle()
        end = world.decisions[-1].end
        assert (end.status, end.error, end.document) == (JobStatus.FAILED, error, None)
        assert world.job.front
