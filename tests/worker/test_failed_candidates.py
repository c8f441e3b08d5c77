"""Jobs with candidates that cannot be evaluated, in memory and with a device process that they kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from service.domain.records import Unit
from service.domain.status import EvaluationState, JobStatus, UnitKind, UnitState
from tests.worker import rows
from tests.worker.conftest import Database, NewJob, WorkerProcess
from tests.worker.rows import DIED
from tests.worker.world import World


class Failing(World):
    """A job in memory, some of whose candidates fail whenever they are evaluated."""

    def __init__(self, *bad: list[int], **changes: Any) -> None:
        super().__init__(**changes)
        self.bad = bad

    def finish(self, unit: Unit, result: Any = None) -> None:
        if any(genes in self.bad for genes in unit.payload.get("candidates", [])):
            self.give_up(unit, DIED)
        else:
            super().finish(unit, result)


def healthy() -> World:
    world = World()
    world.run()
    return world


class TestJob:
    """A job with candidates that cannot be evaluated."""

    def test_a_candidate_that_fails_alone_has_failed_and_the_others_count(self) -> None:
        plain = healthy()
        first = [row for row in plain.evaluations if row.generation == 0]
        bad = max(first, key=lambda row: row.metric).genes
        world = Failing(bad)
        world.run()
        assert world.job.status == JobStatus.SUCCEEDED
        assert len(world.evaluations) == 18
        (failed,) = (row for row in world.evaluations if row.state != EvaluationState.DONE)
        assert (failed.genes, failed.state) == (bad, EvaluationState.FAILED)
        assert (failed.metric, failed.error) == (None, DIED)
        metrics = {tuple(row.genes): row.metric for row in first if row.genes != bad}
        for row in world.evaluations[:6]:
            assert row.genes == bad or row.metric == metrics[tuple(row.genes)]
        assert (world.job.progress["done"], world.job.progress["failed"]) == (17, 1)
        measured = next(unit for unit in world.units if unit.kind == UnitKind.MEASURE)
        assert tuple(bad) not in measured.payload["finalists"]
        assert len(measured.payload["search"]["evaluations"]) == 17

    def test_it_is_no_parent_and_is_not_proposed_again(self) -> None:
        bad = [row.genes for row in healthy().evaluations if row.generation == 0][:4]
        world = Failing(*bad)
        world.run()
        assert world.job.status == JobStatus.SUCCEEDED
        assert len({row.config_key for row in world.evaluations}) == 18
        assert {tuple(row.genes) for row in world.evaluations if row.metric is None} == {
            tuple(genes) for genes in bad
        }

    def test_the_way_does_not_depend_on_the_order_of_the_answers(self) -> None:
        bad = [healthy().evaluations[i].genes for i in (0, 3, 8)]
        worlds = [Failing(*bad), Failing(*bad)]
        worlds[0].run()
        worlds[1].run(pick=lambda pending: pending[-1])
        one, other = ([(row.genes, row.metric) for row in w.evaluations] for w in worlds)
        assert one == other

    def test_all_that_fail_end_the_job_with_their_error(self) -> None:
        bad = [row.genes for row in healthy().evaluations if row.generation == 0]
        world = Failing(*bad)
        world.run()
        assert (world.job.status, world.job.error) == (JobStatus.FAILED, DIED)

    def test_all_that_fail_on_one_shard_or_another_end_it_too(self) -> None:
        class Alternating(World):
            def finish(self, unit: Unit, result: Any = None) -> None:
                position = {tuple(row.genes): row.position for row in self.evaluations}
                candidates = [tuple(genes) for genes in unit.payload.get("candidates", [])]
                if any(position[genes] % 2 == unit.shard for genes in candidates):
                    self.give_up(unit, DIED)
                else:
                    super().finish(unit, result)

        world = Alternating()
        world.run()
        assert (world.job.status, world.job.error) == (JobStatus.FAILED, DIED)
        assert {row.state for row in world.evaluations} == {EvaluationState.FAILED}

    def test_without_racing_it_is_the_same(self) -> None:
        request = rows.request(search={"racing": False})
        plain = World(request=request)
        plain.run()
        bad = plain.evaluations[2].genes
        world = Failing(bad, request=request)
        world.run()
        assert world.job.status == JobStatus.SUCCEEDED
        assert [row.genes for row in world.evaluations if row.metric is None] == [bad]


StartWorker = Callable[..., WorkerProcess]


def test_a_candidate_that_kills_the_device_process_fails_alone(
    database: Database, new_job: NewJob, start_worker: StartWorker
) -> None:
    bad = healthy().evaluations[7].genes
    worker = start_worker("one", FAKE_FATAL=json.dumps({"genes": bad}), SWEEP_SECONDS="0.2")
    job = new_job()
    ended = database.wait_for_end(job)
    assert ended.status == JobStatus.SUCCEEDED, ended.error
    expected = Failing(bad)
    expected.run()
    found = database.evaluations(job)
    assert [(row.genes, row.metric) for row in found] == [
        (row.genes, row.metric) for row in expected.evaluations
    ]
    (failed,) = (row for row in found if row.state == EvaluationState.FAILED)
    assert (failed.genes, failed.error["code"]) == (bad, "DEVICE_PROCESS_DIED")
    assert (ended.progress["done"], ended.progress["failed"]) == (17, 1)
    broken = [unit for unit in database.units(job) if unit.state == UnitState.BROKEN]
    assert {(unit.part == -1, unit.failures) for unit in broken} == {(True, 2), (False, 3)}
    assert worker.process.poll() is None


def test_an_image_that_kills_the_device_process_is_named_and_the_worker_lives_on(
    database: Database, new_job: NewJob, start_worker: StartWorker
) -> None:
    fatal = json.dumps({"shard": 1, "image": 12})
    worker = start_worker("one", FAKE_FATAL=fatal, SWEEP_SECONDS="0.2")
    alone = {"population": 1, "parents": 1, "generations": 1}
    ended = database.wait_for_end(new_job(search=alone), 120)
    assert (ended.status, ended.error["code"]) == (JobStatus.FAILED, "DATASET_INVALID")
    assert "The image image-1-12.png cannot be evaluated" in ended.error["message"]
    assert "DEVICE_PROCESS_DIED" in ended.error["message"]
    dry = database.wait_for_end(new_job(dry_run=True))
    assert dry.status == JobStatus.SUCCEEDED
    assert worker.process.poll() is None
