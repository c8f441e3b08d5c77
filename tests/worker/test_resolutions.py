"""Jobs with several inputs: one search each, one after another, and one result."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from service.domain.records import Unit
from service.domain.status import JobStatus, Stage, UnitKind
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.resolutions import merged
from tests.worker import rows
from tests.worker.conftest import NewJob
from tests.worker.rows import INSPECTION
from tests.worker.test_tasks import advance, evaluations, leases  # noqa: F401
from tests.worker.world import World
from worker.leases import Leases
from worker.replay import replay_job

SIZES = (
    {"height": 448, "width": 448},
    {"height": 224, "width": 448},
    {"height": 896, "width": 896},
)
SPEED = (1.0, 0.7, 10.0)
WINDOWS = ((64, 16, 10), (48, 12, 8), (256, 64, 16))
DENSE_MS = 43.0  # of rows.latency_map
SETTLED = [
    {
        "input": rows.INPUT | size,
        "preprocess": None,
        "windows": list(windows),
        "latency_map_key": f"map{i}",
        "dense_metric": None,
    }
    for i, (size, windows) in enumerate(zip(SIZES, WINDOWS, strict=True))
]


def map_of(resolution: int) -> LatencyMap:
    speed, one = SPEED[resolution], rows.latency_map()
    return replace(
        one,
        key=f"map{resolution}",
        fixed_ms=one.fixed_ms * speed,
        backbone_fixed_ms=one.backbone_fixed_ms * speed,
        pair_ms=tuple(tuple(ms * speed for ms in row) for row in one.pair_ms),
        dense_ms=one.dense_ms * speed,
        receipt={"id": f"rcpt_map{resolution}"},
        facts={**one.facts, "input": SETTLED[resolution]["input"]},
    )


def result_of(unit: Any, count: int = 2) -> Mapping[str, Any]:
    """What a device would answer to a unit of a job with the first `count` inputs."""
    match unit.kind:
        case UnitKind.INSPECT:
            return {**INSPECTION, **SETTLED[0], "resolutions": SETTLED[:count]}
        case UnitKind.CALIBRATE:
            document = map_of(unit.resolution).to_dict()
            return {"map": document, "receipt": document["receipt"]}
        case UnitKind.MEASURE if "found" not in unit.payload:
            return merged(
                unit.payload["before"],
                measured(unit.resolution, unit.payload),
                SETTLED[unit.resolution]["input"],
                lambda name, content: name,
            )
    return rows.simulated_result(unit)


def measured(resolution: int, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The best candidate wins; the smaller the input, the better."""
    known = {tuple(row["genes"]): row for row in payload["search"]["evaluations"]}
    best = known[tuple(payload["finalists"][0])]
    value, receipt = best["metric"] + 0.1 * resolution, f"rcpt_measured{resolution}"
    point = {
        "genes": list(best["genes"]),
        "metric": value,
        "latency_predicted": best["latency_ms"],
        "on_front": True,
        "winner": True,
    }
    drawing = {
        "points": [[best["latency_ms"], value]],
        "front": [[best["latency_ms"], value]],
        "dense": [DENSE_MS, 1.0],
        "budget_ms": 20.0,
        "winner": None,
        "uniform": [],
        "metric_name": "digit_miou",
    }
    return {
        "document": {
            "input": SETTLED[resolution]["input"],
            "metric": {"search": {"value": value}},
            "latency_ms": {"p50": best["latency_ms"]},
            "search": payload["search"]["stop"],
        },
        "front": [point],
        "receipts": {receipt: {"id": receipt}},
        "artefacts": {"windows.png": f"windows{resolution}"},
        "error": None,
        "drawing": drawing,
    }


class Several(World):
    """A job with the first `count` of SIZES, in memory."""

    def __init__(self, count: int = 2, **changes: Any) -> None:
        self.count = count
        super().__init__(request=rows.request(input=list(SIZES[:count]), **changes))

    def finish(self, unit: Unit, result: Mapping[str, Any] | None = None) -> None:
        result = result or result_of(unit, self.count)
        if unit.kind == UnitKind.INSPECT:
            wishes = {name: self.job.request[name] for name in ("adapt", "finetune")}
            result = {**result, **wishes}
        super().finish(unit, result)

    def of(self, kind: UnitKind) -> list[Unit]:
        return [unit for unit in self.units if unit.kind == kind]


@pytest.fixture(scope="module")
def world() -> Several:
    world = Several()
    world.run()
    return world


def test_every_input_is_calibrated_searched_and_measured(world: Several) -> None:
    assert world.job.status == JobStatus.SUCCEEDED
    for kind in (UnitKind.CALIBRATE, UnitKind.MEASURE):
        assert [unit.resolution for unit in world.of(kind)] == [0, 1]
    assert [unit.resolution for unit in world.of(UnitKind.EVALUATE)] == [0] * 9 + [1] * 9
    assert len(world.evaluations) == 36
    assert len({(row.resolution, row.config_key) for row in world.evaluations}) == 36
    assert (world.job.progress["done"], world.job.progress["total"]) == (36, 36)
    assert world.job.progress["stop"] == "generations"
    told = world.job.resolutions
    assert [(one["reachable"], one["stop"], one["planned"]) for one in told] == [
        (True, "generations", 18),
        (True, "generations", 18),
    ]
    assert [one["latency"]["key"] for one in told] == ["map0", "map1"]
    assert world.job.latency_map_key == "map0"
    assert world.job.latency == told[0]["latency"]


def test_the_last_measurement_is_of_all_inputs(world: Several) -> None:
    first, last = world.of(UnitKind.MEASURE)
    assert (first.payload["before"], last.payload["before"]) == (None, first.result)
    assert (first.payload["dense_ratio"], last.payload["dense_ratio"]) == (
        1.0,
        pytest.approx(1 / 0.7),
    )
    assert last.payload["search"]["stop"] == "generations"
    assert world.job.result["input"] == SETTLED[1]["input"]
    assert [point["input"]["height"] for point in world.job.front if point["winner"]] == [224]
    assert {point["input"]["height"] for point in world.job.front} == {224, 448}
    assert world.job.artefacts["windows.png"] == "windows1"
    assert set(last.result["receipts"]) == {"rcpt_measured0", "rcpt_measured1"}


@pytest.mark.parametrize("resolution", [0, 1])
def test_a_search_is_what_it_would_be_with_that_input_alone(
    world: Several, resolution: int
) -> None:
    budget_ms = 0.6 * DENSE_MS  # a share is one of the first input's
    alone = World(map_of(resolution), request=rows.request(latency_budget_ms=budget_ms))
    alone.settle()
    alone.finish(alone.pending[0], {**INSPECTION, **SETTLED[resolution]})
    alone.run()
    one, other = (
        [(row.genes, row.metric, row.latency_ms, row.generation) for row in log]
        for log in (
            alone.evaluations,
            (row for row in world.evaluations if row.resolution == resolution),
        )
    )
    assert one == other
    assert max(row.latency_ms for row in alone.evaluations) <= budget_ms


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_units_end_changes_nothing(world: Several, seed: int) -> None:
    shuffled = Several()
    shuffled.run(random.Random(seed).choice)
    assert shuffled.evaluations == world.evaluations
    assert shuffled.job == world.job


def test_an_input_out_of_reach_is_left_out_and_named() -> None:
    world = Several(3)
    world.run()
    assert world.job.status == JobStatus.SUCCEEDED
    assert world.job.verdicts == ["RESOLUTION_UNREACHABLE"]
    assert [one["reachable"] for one in world.job.resolutions] == [True, True, False]
    assert world.job.resolutions[2]["latency"]["scopes"]["model"]["min_ms"] > 0.6 * DENSE_MS
    assert {unit.resolution for unit in world.of(UnitKind.EVALUATE)} == {0, 1}
    assert world.job.progress["total"] == 36


def test_the_first_input_may_be_out_of_reach() -> None:
    world = Several(latency_budget_ms=10.0)  # the fastest take 11.0 and 7.7 ms
    world.run()
    assert world.job.status == JobStatus.SUCCEEDED
    assert [one["reachable"] for one in world.job.resolutions] == [False, True]
    assert {row.resolution for row in world.evaluations} == {1}
    (measure,) = world.of(UnitKind.MEASURE)
    assert (measure.resolution, measure.payload["before"]) == (1, None)


def test_none_within_reach_ends_the_job_with_the_nearest_of_all() -> None:
    world = Several(latency_budget_ms=0.5)
    world.run()
    assert world.job.error["code"] == "BUDGET_UNREACHABLE"
    assert "224 x 448" in world.job.error["message"]
    assert not world.evaluations
    assert [one["latency"]["key"] for one in world.job.resolutions] == ["map0", "map1"]


def test_a_map_of_a_busy_device_serves_the_job_at_its_input() -> None:
    world = Several()
    world.settle()
    world.finish(world.pending[0])
    world.settle()
    first, second = world.pending
    disturbed = replace(map_of(1), key="map1-rcpt_9").to_dict()
    world.finish(second, {"map": disturbed, "receipt": disturbed["receipt"]})
    world.settle()
    world.finish(first)
    world.settle()
    assert world.job.stage == Stage.SEARCH
    assert [one["latency_map_key"] for one in world.job.resolutions] == ["map0", "map1-rcpt_9"]


def test_training_is_at_the_first_input_and_at_the_winners() -> None:
    world = Several(adapt={"steps": 5}, finetune={"steps": 5})
    world.run()
    assert world.job.status == JobStatus.SUCCEEDED
    assert {unit.resolution for unit in world.of(UnitKind.ADAPT)} == {0}
    assert [unit.shard for unit in world.of(UnitKind.FINETUNE)] == [0, 1, 2]
    assert {unit.resolution for unit in world.of(UnitKind.FINETUNE)} == {1}
    again = world.of(UnitKind.MEASURE)[-1]
    assert (again.resolution, again.shard) == (1, 0)
    assert again.payload["dense_ratio"] == pytest.approx(1 / 0.7)


def test_a_job_in_the_database_that_is_stepped_on_often_finds_the_same(
    engine: Engine,
    leases: Leases,  # noqa: F811
    new_job: NewJob,
    world: Several,
) -> None:
    job = new_job(input=list(SIZES[:2]))
    while (unit := leases.claim(rows.DEVICE["model"], "CPU-1")) is not None:
        assert leases.release(unit)  # a worker that ends gives it back
        unit = leases.claim(rows.DEVICE["model"], "CPU-1")
        sent = leases.request(unit)
        if unit.kind != UnitKind.INSPECT:
            assert sent["session"]["input"] == SETTLED[unit.resolution]["input"]
        if unit.kind == UnitKind.MEASURE:
            assert sent["payload"]["latency_map"]["key"] == f"map{unit.resolution}"
        assert leases.finish(unit, dict(result_of(unit)))
        for _ in range(2):
            advance(engine, job.id)
    found = [(row.resolution, row.genes, row.metric) for row in evaluations(engine, job)]
    assert found == [(row.resolution, row.genes, row.metric) for row in world.evaluations]
    replayed = list(replay_job(engine, job.id))
    assert all(one.difference is None for one in replayed)
    assert [one.stop for one in replayed if one.stop] == ["generations", "generations"]
    with engine.connect() as connection:
        statement = text("SELECT status, result, front FROM jobs WHERE id = :job")
        ended = connection.execute(statement, {"job": job.id}).one()
    assert ended.status == JobStatus.SUCCEEDED
    assert ended.result == {**world.job.result}
    assert ended.front == world.job.front
