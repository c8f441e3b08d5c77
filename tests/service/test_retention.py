"""Retention on a real Postgres and a real artefact folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from service.commands import register
from service.db import retention
from service.db.artefacts import TRAININGS, WEIGHTS_SUFFIX, ArtefactStore
from service.db.evaluations import EvaluationRepository
from service.db.idempotency import IdempotencyRepository, Kept
from service.db.jobs import JobRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.receipts import ReceiptRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.records import Proposal
from service.domain.status import UnitKind
from tests.service.conftest import add_job

TABLES = ("jobs", "evaluations", "units", "receipts", "job_events", "idempotency_keys")
MONTH = timedelta(days=30)


class Archive:
    """A database with jobs in it, and the files they refer to."""

    def __init__(self, engine: Engine, root: Path) -> None:
        self.engine, self.store = engine, ArtefactStore(root)

    def put(self, content: str, suffix: str = "") -> str:
        """A file that was stored two days ago."""
        digest = self.store.put(content.encode())
        path = self.store.path(digest)
        if suffix:
            path = path.rename(self.store.path(digest, suffix))
        self.age(path)
        return digest

    def age(self, path: Path) -> None:
        then = time.time() - timedelta(days=2).total_seconds()
        os.utime(path, (then, then))

    def job(
        self, pictures: tuple[str, ...] = (), ended: float | None = None, owner: str = "ann"
    ) -> str:
        """A job with a row in every table. ended: so many days ago; None: it runs."""
        job_id = add_job(self.engine, owner)
        with session_scope(self.engine) as session:
            jobs, units = JobRepository(session), UnitRepository(session)
            jobs.start(job_id)
            EvaluationRepository(session).add(job_id, 0, [Proposal("[1]", [1], 1.0)])
            units.add(job_id, UnitKind.INSPECT, {})
            ReceiptRepository(session).add(job_id, "rcpt_1", "measure", {})
            kept = Kept("b" * 64, job_id, {})
            IdempotencyRepository(session).keep(owner, f"key of {job_id}", kept)
            artefacts = {f"{i}.png": digest for i, digest in enumerate(pictures)}
            jobs.set_front(job_id, [], artefacts)
            if ended is not None:
                jobs.succeed(job_id, None)
                units.cancel_pending(job_id)
                session.execute(
                    text("UPDATE jobs SET finished_at = clock_timestamp() - :age WHERE id = :id"),
                    {"id": job_id, "age": timedelta(days=ended)},
                )
        return job_id

    def slice(self, job_id: str, shard: int, **result: Any) -> None:
        """A slice of a training that has ended."""
        with session_scope(self.engine) as session:
            UnitRepository(session).add(job_id, UnitKind.ADAPT, {}, shard=shard)
            session.execute(
                text(
                    "UPDATE units SET state = 'done', result = :result "
                    "WHERE job_id = :id AND kind = 'adapt' AND shard = :shard"
                ),
                {"id": job_id, "shard": shard, "result": json.dumps(result)},
            )

    def jobs(self) -> set[str]:
        with session_scope(self.engine) as session:
            return set(session.scalars(text("SELECT id FROM jobs")))

    def counts(self) -> dict[str, int]:
        with session_scope(self.engine) as session:
            return {
                name: session.scalar(text(f"SELECT count(*) FROM {name}")) or 0 for name in TABLES
            }

    def names(self) -> set[str]:
        return {path.name for path in self.store.root.iterdir() if path.is_file()}

    def clean(self, age: timedelta = MONTH) -> retention.Leftovers:
        found = retention.find(self.engine, self.store, age)
        retention.remove(self.engine, self.store, found, age)
        return found


@pytest.fixture
def archive(engine: Engine, tmp_path: Path) -> Archive:
    (tmp_path / "artefacts").mkdir()
    return Archive(engine, tmp_path / "artefacts")


def test_old_jobs_go_with_all_their_rows_and_nobody_elses(archive: Archive) -> None:
    old = [archive.job(ended=31 + days) for days in range(3)]
    kept = {archive.job(ended=29), archive.job(), archive.job(owner="bob")}
    found = archive.clean()
    assert sorted(found.jobs) == sorted(old)
    assert found.rows == {"evaluations": 3, "units": 3, "receipts": 3, "latency_maps": 0}
    assert archive.jobs() == kept
    counts = archive.counts()
    assert counts.pop("job_events") >= 3
    assert set(counts.values()) == {3}
    assert archive.clean().jobs == []


def test_more_jobs_than_go_in_one_transaction(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        archive.job(ended=40)
    archive.clean()
    assert archive.counts() == dict.fromkeys(TABLES, 0)


def test_files_go_that_no_other_job_refers_to(archive: Archive) -> None:
    mine, shared, theirs = (archive.put(name) for name in ("mine", "shared", "theirs"))
    archive.job((mine, shared), ended=40)
    archive.job((shared, theirs), ended=2)
    assert {file.digest for file in archive.clean().files} == {mine}
    assert archive.names() == {shared, theirs}


def test_weights_and_checkpoints_of_trainings(archive: Archive) -> None:
    made = {name: archive.put(name, WEIGHTS_SUFFIX) for name in ("old", "adapted", "tuned")}
    gone_on, left_over = archive.put("checkpoint"), archive.put("superseded")
    old, live, ended = archive.job(ended=40), archive.job(), archive.job(ended=2)
    archive.slice(old, 0, weights=made["old"], checkpoint=None)
    archive.slice(live, 0, weights=None, checkpoint=gone_on)
    archive.slice(ended, 0, weights=None, checkpoint=left_over)
    archive.slice(ended, 1, weights=made["adapted"], checkpoint=None)
    with session_scope(archive.engine) as session:
        row = json.dumps({"source": "finetuned", "sha256": made["tuned"]})
        session.execute(
            text("UPDATE jobs SET weights = :row WHERE id = :id"), {"id": ended, "row": row}
        )
    archive.clean()
    names = {made[name] + WEIGHTS_SUFFIX for name in ("adapted", "tuned")}
    assert archive.names() == {*names, gone_on}


def test_pictures_of_a_measurement_stay_before_its_job_has_them(archive: Archive) -> None:
    picture = archive.put("picture")
    job = archive.job()
    with session_scope(archive.engine) as session:
        UnitRepository(session).add(job, UnitKind.MEASURE, {})
        session.execute(
            text("UPDATE units SET result = :result WHERE kind = 'measure'"),
            {"result": json.dumps({"artefacts": {"pareto.png": picture}})},
        )
    archive.clean()
    assert archive.names() == {picture}


def test_what_was_stored_lately_stays_and_so_does_what_is_stored_again(archive: Archive) -> None:
    orphan, new = archive.put("orphan"), archive.store.put(b"new")
    found = retention.find(archive.engine, archive.store, MONTH)
    assert [file.digest for file in found.files] == [orphan]
    assert archive.store.put(b"orphan") == orphan  # by another job, at this very moment
    retention.remove(archive.engine, archive.store, found, MONTH)
    assert archive.names() == {orphan, new}


def test_files_that_are_no_artefacts_stay_and_halves_go(archive: Archive) -> None:
    root = archive.store.root
    for name in (".writing-x", f".removing-{'a' * 64}", "README", "a" * 63):
        (root / name).write_text("x")
        archive.age(root / name)
    (root / "quiet").mkdir()
    archive.clean()
    assert archive.names() == {"README", "a" * 63}
    assert (root / "quiet").is_dir()


def test_folders_of_trainings_go_whose_job_has_ended(archive: Archive) -> None:
    live, ended = archive.job(), archive.job(ended=0)
    for name in (live, ended, "job_gone"):
        folder = archive.store.root / TRAININGS / name / "7-1"
        folder.mkdir(parents=True)
        (folder / "training.ckpt").write_bytes(b"x")
    found = archive.clean()
    assert {folder.name for folder in found.folders} == {ended, "job_gone"}
    assert [path.name for path in (archive.store.root / TRAININGS).iterdir()] == [live]
    assert archive.jobs() == {live, ended}


def test_a_map_that_served_one_job_alone_goes_with_it(archive: Archive) -> None:
    keys = {name: f"{'c' * 64}-rcpt_{name}" for name in ("old", "kept", "second")}
    jobs = {"old": archive.job(ended=40), "kept": archive.job(ended=2)}
    with session_scope(archive.engine) as session:
        for key in (*keys.values(), "d" * 64):
            LatencyMapRepository(session).add(key, "Testium", {}, None)
        for name, job in jobs.items():
            session.execute(
                text("UPDATE jobs SET latency_map_key = :key, resolutions = :rows WHERE id = :id"),
                {
                    "key": keys[name],
                    "id": job,
                    "rows": json.dumps([{"latency_map_key": keys["second"]}]),
                },
            )
        session.execute(text("UPDATE latency_maps SET created_at = now() - interval '2 days'"))
    archive.clean()
    with session_scope(archive.engine) as session:
        left = set(session.scalars(text("SELECT key FROM latency_maps")))
    assert left == {keys["kept"], keys["second"], "d" * 64}


@pytest.mark.parametrize("moment", ["before it is moved aside", "after it was moved aside"])
def test_a_file_that_is_stored_while_it_is_removed_is_there_afterwards(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    digest = archive.put("picture")
    (file,) = archive.store.files()
    replace = os.replace

    def interrupted(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "replace", replace)
        if moment.startswith("before"):
            archive.store.put(b"picture")
        replace(source, target)
        if moment.startswith("after"):
            archive.store.put(b"picture")

    monkeypatch.setattr(os, "replace", interrupted)
    archive.store.discard(file, time.time() - 5)
    assert archive.names() == {digest}
    assert archive.store.get(digest) == b"picture"


@pytest.fixture
def run(
    archive: Archive, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("ARTIFACT_ROOT", str(archive.store.root))
    app = typer.Typer()
    register(app)
    return lambda *arguments: CliRunner().invoke(app, ["retention", *arguments])


def test_the_command_tells_and_deletes_only_when_it_is_told_to(
    archive: Archive, run: Callable[..., Result]
) -> None:
    picture = archive.put("picture")
    job = archive.job((picture,), ended=40)
    told = run("--days", "30")
    assert told.exit_code == 0, told.output
    assert "to delete: 1 jobs, with 1 evaluations, 1 units, 1 receipts" in told.stdout
    assert "to delete: 1 files (0.0 MB), 0 folders" in told.stdout
    assert "--yes" in told.stderr
    assert archive.jobs() == {job}
    assert archive.names() == {picture}
    done = json.loads(run("--days", "30", "--yes", "--json").stdout)
    assert (done["jobs"], done["files"], done["bytes"], done["deleted"]) == (1, 1, 7, True)
    assert archive.jobs() == archive.names() == set()
    assert run("--days", "0").exit_code == 2


def test_ninety_days_are_kept_unless_another_number_is_given(
    archive: Archive, run: Callable[..., Result]
) -> None:
    archive.job(ended=91)
    kept = archive.job(ended=89)
    assert run("--yes").exit_code == 0
    assert archive.jobs() == {kept}
