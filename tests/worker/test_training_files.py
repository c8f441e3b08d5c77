"""Where the files of a training are, on a real Postgres: fenced, taken over, and removed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from service.db.artefacts import ArtefactStore
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.records import Job, Unit
from service.domain.status import JobStatus, Stage, UnitKind, UnitState
from sparsevit.errors import CheckpointError
from tests.worker import rows
from tests.worker.conftest import NewJob
from worker import training_files
from worker.leases import Leases
from worker.tasks import advance

MODEL = rows.DEVICE["model"]
SETTINGS = {"steps": rows.TRAINING_STEPS}


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return ArtefactStore(tmp_path / "artefacts")


@pytest.fixture
def leases(engine: Engine, store: ArtefactStore) -> Leases:
    return Leases(engine, "worker-1", 60, store.root, slice_seconds=7)


class Lab:
    """Runs units as a worker would, on a device whose answers are made up."""

    def __init__(self, engine: Engine, leases: Leases, store: ArtefactStore) -> None:
        self.engine, self.leases, self.store = engine, leases, store

    def work(self, until: UnitKind | None = None) -> Unit | None:
        """Units and steps until there are none, or one of kind `until` is held."""
        while (unit := self.leases.claim(MODEL, "CPU-1")) is not None:
            if unit.kind == until:
                return unit
            assert self.leases.finish(unit, self.result(unit))
            self.leases.leave(unit)
            advance(self.engine, self.store, unit.job_id)
        return None

    def result(self, unit: Unit) -> dict[str, Any]:
        if unit.kind == UnitKind.INSPECT:
            settled = {"adapt": SETTINGS, "finetune": SETTINGS}
            return rows.INSPECTION | settled
        return rows.simulate(unit.kind, self.leases.request(unit)["payload"])

    def job(self, job: Job) -> Job:
        with session_scope(self.engine) as session:
            found = JobRepository(session).get(job.id)
        assert found is not None
        return found

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.store.root.iterdir() if path.is_file()}

    def folders(self, job: Job) -> list[Path]:
        return sorted(training_files.job_folder(self.store.root, job.id).glob("*"))


@pytest.fixture
def lab(engine: Engine, leases: Leases, store: ArtefactStore) -> Lab:
    return Lab(engine, leases, store)


@pytest.fixture
def new_training(new_job: NewJob) -> Callable[[], Job]:
    return lambda: new_job(adapt=SETTINGS, finetune=SETTINGS)


def test_a_job_leaves_its_weights_and_nothing_else(
    lab: Lab, new_training: Callable[[], Job]
) -> None:
    job = new_training()
    lab.work()
    ended = lab.job(job)
    assert ended.status == JobStatus.SUCCEEDED
    assert ended.weights["source"] == "finetuned"
    assert f"{ended.weights['sha256']}.safetensors" in lab.files
    assert {name.partition(".")[2] for name in lab.files} == {"safetensors"}
    assert len(lab.files) == 2  # of the adaptation, which the front is of, and of the fine-tuning
    assert lab.folders(job) == []


def test_a_slice_is_told_where_to_work_and_for_how_long(
    lab: Lab, new_training: Callable[[], Job]
) -> None:
    job = new_training()
    unit = lab.work(until=UnitKind.ADAPT)
    payload = lab.leases.request(unit)["payload"]
    folder = lab.store.root / "training" / job.id / f"{unit.id}-1"
    assert (payload["folder"], payload["seconds"]) == (str(folder), 7)
    assert payload["settings"] == SETTINGS
    assert lab.leases.finish(unit, lab.result(unit))
    advance(lab.engine, lab.store, job.id)
    second = lab.work(until=UnitKind.ADAPT)
    lab.result(second)
    before = rows.simulate(UnitKind.ADAPT, unit.payload)["checkpoint"]
    (file,) = training_files.attempt_folder(lab.store.root, second).glob("training.ckpt")
    assert second.payload["checkpoint"] == before
    assert lab.store.path(before).exists()
    assert file.exists()


def test_sessions_after_a_training_are_on_its_weights(
    lab: Lab, new_training: Callable[[], Job]
) -> None:
    job = new_training()
    before = lab.leases.request(lab.work(until=UnitKind.ADAPT))["session"]
    assert (before["checkpoint"], "weights_source" in before) == ("builtin:digits", False)
    with session_scope(lab.engine) as session:
        JobRepository(session).set_weights(job.id, {"sha256": "e" * 64, "source": "adapted"})
        (unit,) = UnitRepository(session).for_job(job.id, UnitKind.ADAPT)
    after = lab.leases.request(unit)["session"]
    assert after["checkpoint"] == str(lab.store.path("e" * 64, ".safetensors"))
    assert after["weights_source"] == "adapted"


def test_what_a_stale_attempt_wrote_takes_no_place(
    lab: Lab, new_training: Callable[[], Job]
) -> None:
    job = new_training()
    stale = lab.work(until=UnitKind.ADAPT)
    late = lab.result(stale)  # it computed, and was then believed dead
    assert lab.leases.release(stale)
    fresh = lab.leases.claim(MODEL, "CPU-1")
    assert (fresh.id, fresh.attempt) == (stale.id, 2)
    made = lab.result(fresh)
    assert [folder.name for folder in lab.folders(job)] == [f"{fresh.id}-2"]
    assert not lab.leases.finish(stale, late)
    assert lab.files == set()
    lab.leases.leave(stale)
    assert lab.leases.finish(fresh, made)
    assert lab.files == {made["checkpoint"]}


def test_an_attempt_that_wakes_up_late_leaves_the_next_one_its_files(
    lab: Lab, new_training: Callable[[], Job]
) -> None:
    job = new_training()
    stale = lab.work(until=UnitKind.ADAPT)  # and stopped before it began
    assert lab.leases.release(stale)
    fresh = lab.leases.claim(MODEL, "CPU-1")
    made = lab.result(fresh)
    lab.result(stale)
    assert [folder.name for folder in lab.folders(job)] == [f"{stale.id}-1", f"{fresh.id}-2"]
    lab.leases.leave(stale)
    assert lab.leases.finish(fresh, made)


def test_a_result_whose_file_is_gone_is_no_result(
    lab: Lab, new_training: Callable[[], Job]
) -> None:
    new_training()
    unit = lab.work(until=UnitKind.ADAPT)
    made = lab.result(unit)
    lab.leases.leave(unit)
    with pytest.raises(FileNotFoundError):
        lab.leases.finish(unit, made)
    with session_scope(lab.engine) as session:
        held = UnitRepository(session).get(unit.id)
    assert (held.state, held.result) == (UnitState.LEASED, None)


def test_a_result_is_handed_in_again_where_the_database_went_away_at_its_end(
    lab: Lab, new_training: Callable[[], Job], engine: Engine
) -> None:
    new_training()
    unit = lab.work(until=UnitKind.ADAPT)
    made = lab.result(unit)
    with session_scope(engine) as session:
        folder = training_files.attempt_folder(lab.store.root, unit)
        training_files.keep(session, lab.store, folder, made)
        session.rollback()
    assert lab.leases.finish(unit, made)
    assert lab.files == {made["checkpoint"]}


def test_a_checkpoint_that_somebody_removed_is_named(
    lab: Lab, new_training: Callable[[], Job]
) -> None:
    job = new_training()
    first = lab.work(until=UnitKind.ADAPT)
    lab.leases.finish(first, lab.result(first))
    advance(lab.engine, lab.store, job.id)
    second = lab.work(until=UnitKind.ADAPT)
    lab.store.remove(second.payload["checkpoint"])
    with pytest.raises(CheckpointError, match="need the same ARTIFACT_ROOT"):
        lab.result(second)


def test_two_equal_jobs_share_their_checkpoints_until_the_last_needs_none(
    lab: Lab, new_training: Callable[[], Job]
) -> None:
    """Both train the same: their files have one name. The one that is ahead may not take away
    what the other one goes on from."""
    jobs = [new_training(), new_training()]
    lab.work()  # their slices alternate
    assert {lab.job(job).status for job in jobs} == {JobStatus.SUCCEEDED}
    assert {name.partition(".")[2] for name in lab.files} == {"safetensors"}


def test_a_checkpoint_that_another_job_goes_on_from_stays(
    lab: Lab, new_training: Callable[[], Job]
) -> None:
    behind, ahead = new_training(), new_training()
    held: dict[str, Unit] = {}
    while len(held) < 2:  # both with their first slice done, and their second one leased
        unit = lab.leases.claim(MODEL, "CPU-1")
        if unit.kind == UnitKind.ADAPT and unit.shard == 1:
            held[unit.job_id] = unit
            continue
        assert lab.leases.finish(unit, lab.result(unit))
        advance(lab.engine, lab.store, unit.job_id)
    shared = held[behind.id].payload["checkpoint"]
    assert shared == held[ahead.id].payload["checkpoint"]
    assert lab.leases.finish(held[ahead.id], lab.result(held[ahead.id]))
    advance(lab.engine, lab.store, ahead.id)
    assert shared in lab.files
    assert lab.leases.finish(held[behind.id], lab.result(held[behind.id]))
    advance(lab.engine, lab.store, behind.id)
    assert shared not in lab.files


def test_a_job_cancelled_in_its_training_leaves_nothing(
    lab: Lab, new_training: Callable[[], Job]
) -> None:
    job = new_training()
    first = lab.work(until=UnitKind.ADAPT)
    lab.leases.finish(first, lab.result(first))
    advance(lab.engine, lab.store, job.id)
    second = lab.work(until=UnitKind.ADAPT)
    lab.result(second)
    assert len(lab.files) == 1
    with session_scope(lab.engine) as session:
        JobRepository(session).request_cancel(job.id)
    assert lab.leases.heartbeat(second, {"step": 3, "steps": 5, "loss": 0.1}) == "cancel"
    assert lab.leases.cancel(second)
    advance(lab.engine, lab.store, job.id)
    assert lab.job(job).status == JobStatus.CANCELLED
    assert (lab.files, lab.folders(job)) == (set(), [])


def test_a_heartbeat_tells_how_far_a_slice_is(lab: Lab, new_training: Callable[[], Job]) -> None:
    job = new_training()
    unit = lab.work(until=UnitKind.ADAPT)
    before = lab.job(job)
    training = {"step": 3, "steps": 5, "loss": 0.25}
    assert lab.leases.heartbeat(unit, training) == "ok"
    after = lab.job(job)
    assert after.progress == before.progress | {"training": training}
    assert after.version == before.version + 1
    with session_scope(lab.engine) as session:
        JobRepository(session).set_stage(job.id, Stage.SEARCH)
    assert lab.leases.heartbeat(unit, training | {"step": 4}) == "ok"  # too late
    assert lab.job(job).progress["training"] == training
