"""Claim, heartbeat, finish and expiry on a real Postgres."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.records import Unit
from service.domain.status import UnitKind, UnitState
from tests.service.conftest import add_job

MODEL = "Testium 3000"


def add(
    engine: Engine,
    job_id: str,
    kind: UnitKind,
    shard: int = -1,
    device: str | None = None,
    part: int = -1,
) -> int:
    with session_scope(engine) as session:
        generation = 0 if kind is UnitKind.EVALUATE else -1
        units = UnitRepository(session)
        unit_id = units.add(job_id, kind, {}, generation, shard, part, device)
    assert unit_id is not None
    return unit_id


def claim(
    engine: Engine, worker: str = "w1", device: str = MODEL, uuid: str = "uuid-1", lease: float = 60
) -> Unit | None:
    with session_scope(engine) as session:
        return UnitRepository(session).claim(worker, device, uuid, lease)


def get(engine: Engine, unit_id: int) -> Unit:
    with session_scope(engine) as session:
        unit = UnitRepository(session).get(unit_id)
    assert unit is not None
    return unit


def test_a_unit_is_added_once(engine: Engine, job_id: str) -> None:
    with session_scope(engine) as session:
        units = UnitRepository(session)
        assert units.add(job_id, UnitKind.EVALUATE, {"n": 1}, 0, 3) is not None
        assert units.add(job_id, UnitKind.EVALUATE, {"n": 2}, 0, 3) is None
        assert units.add(job_id, UnitKind.EVALUATE, {"n": 3}, 0, 4) is not None
        assert units.add(job_id, UnitKind.INSPECT, {}) is not None
        assert units.add(job_id, UnitKind.INSPECT, {}) is None
        assert [unit.payload for unit in units.for_job(job_id, UnitKind.EVALUATE, 0)] == [
            {"n": 1},
            {"n": 3},
        ]


def test_a_claim_leases_the_oldest_unit_and_raises_the_attempt(engine: Engine, job_id: str) -> None:
    first = add(engine, job_id, UnitKind.EVALUATE, 0)
    add(engine, job_id, UnitKind.EVALUATE, 1)
    unit = claim(engine)
    assert unit is not None
    assert (unit.id, unit.attempt, unit.state) == (first, 1, UnitState.LEASED)
    assert (unit.worker_id, unit.device_uuid, unit.kind) == ("w1", "uuid-1", UnitKind.EVALUATE)
    assert unit.lease_until is not None
    assert unit.started_at is not None
    assert 59 < (unit.lease_until - unit.started_at).total_seconds() < 61
    assert unit.payload == {}


def test_a_unit_that_needs_another_device_model_stays(engine: Engine, job_id: str) -> None:
    add(engine, job_id, UnitKind.EVALUATE, 0, device="Otherium")
    mine = add(engine, job_id, UnitKind.EVALUATE, 1, device=MODEL)
    unit = claim(engine)
    assert unit is not None
    assert unit.id == mine
    assert claim(engine) is None


def test_jobs_take_turns(engine: Engine) -> None:
    jobs = [add_job(engine) for _ in range(2)]
    for job_id in jobs:
        for shard in range(3):
            add(engine, job_id, UnitKind.EVALUATE, shard)
    claimed = [claim(engine, f"w{number}", uuid=f"uuid-{number}") for number in range(6)]
    assert [unit.job_id for unit in claimed if unit] == [jobs[0], jobs[1]] * 3


def test_a_long_training_leaves_the_others_their_turns(engine: Engine) -> None:
    """Slices come one by one, each added when the last one ended: nobody may be starved by that."""
    training, other = add_job(engine), add_job(engine)
    for shard in range(3):
        add(engine, other, UnitKind.EVALUATE, shard)
    order = []
    for shard in range(3):
        add(engine, training, UnitKind.ADAPT, shard)
        for _ in range(2):
            unit = claim(engine)
            assert unit is not None
            order.append(unit.job_id)
            with session_scope(engine) as session:
                UnitRepository(session).finish(unit.id, unit.attempt, {})
    assert sorted(order[:2]) == sorted([training, other])
    assert order[2:] == order[:2] * 2


def test_a_job_that_is_being_cancelled_yields_no_unit(engine: Engine, job_id: str) -> None:
    add(engine, job_id, UnitKind.EVALUATE, 0)
    with session_scope(engine) as session:
        assert JobRepository(session).request_cancel(job_id)
    assert claim(engine) is None


@pytest.mark.parametrize("quiet", [UnitKind.MEASURE, UnitKind.CALIBRATE])
@pytest.mark.parametrize("kind", [UnitKind.EVALUATE, UnitKind.ADAPT, UnitKind.FINETUNE])
def test_nothing_runs_beside_a_unit_that_measures(
    engine: Engine, quiet: UnitKind, kind: UnitKind
) -> None:
    add(engine, add_job(engine), quiet)
    add(engine, add_job(engine), kind, 0)
    first = claim(engine)
    assert first is not None
    assert first.kind is quiet
    assert claim(engine, "w2") is None, "the same device is taken"
    other = claim(engine, "w3", uuid="uuid-2")
    assert other is not None, "another device of the model is free"
    with session_scope(engine) as session:
        UnitRepository(session).finish(first.id, first.attempt, {})
        UnitRepository(session).release(other.id, other.attempt)
    assert claim(engine, "w2") is not None


def test_a_measurement_keeps_its_turn_until_its_device_is_quiet(engine: Engine) -> None:
    busy, waiting = add_job(engine), add_job(engine)
    add(engine, busy, UnitKind.EVALUATE, 0)
    running = claim(engine)
    assert running is not None
    measure = add(engine, waiting, UnitKind.MEASURE)
    add(engine, busy, UnitKind.EVALUATE, 1)
    assert claim(engine, "w2") is None, "the device drains"
    with session_scope(engine) as session:
        UnitRepository(session).finish(running.id, running.attempt, {})
    unit = claim(engine, "w2")
    assert unit is not None
    assert unit.id == measure


def test_concurrent_claimers_never_share_a_unit(engine: Engine) -> None:
    units = {add(engine, add_job(engine), UnitKind.EVALUATE, shard) for shard in range(12)}
    gate = threading.Barrier(4)

    def work(number: int) -> list[int]:
        gate.wait()
        mine = []
        while (unit := claim(engine, f"w{number}", uuid=f"uuid-{number}")) is not None:
            mine.append(unit.id)
        return mine

    with ThreadPoolExecutor(4) as pool:
        claimed = [unit_id for mine in pool.map(work, range(4)) for unit_id in mine]
    assert len(claimed) == len(set(claimed))
    # A claimer may meet a row that another one holds at that moment; what is left is found again.
    while (unit := claim(engine, "last", uuid="uuid-last")) is not None:
        claimed.append(unit.id)
    assert set(claimed) == units
    assert len(claimed) == len(units)


def test_concurrent_claimers_of_one_device_never_measure_together(engine: Engine) -> None:
    for _ in range(4):
        add(engine, add_job(engine), UnitKind.MEASURE)
    gate = threading.Barrier(4)

    def work(number: int) -> Unit | None:
        gate.wait()
        return claim(engine, f"w{number}")

    with ThreadPoolExecutor(4) as pool:
        claimed = [unit for unit in pool.map(work, range(4)) if unit is not None]
    assert len(claimed) == 1
