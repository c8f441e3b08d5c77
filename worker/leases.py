"""Leases of one worker: what it may work on, for how long, and whether its word still counts.

Each call is a transaction of its own. A unit names its attempt in every write, so a worker that
was believed dead (stopped, cut off) and comes back is refused: `False` or "lost" says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.db.artefacts import ArtefactStore
from service.db.evaluation_cache import EvaluationCacheRepository
from service.db.jobs import JobRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.session import session_scope
from service.db.tallies import TallyRepository
from service.db.units import Beat, UnitRepository
from service.domain.records import Unit
from service.domain.status import TRAINING_KINDS, UnitKind
from sparsevit.errors import DeviceDisturbed
from worker import training_files
from worker.job_rows import map_keys
from worker.requests import unit_request
from worker.reuse import Known, unit_keys


class Leases:
    """The leases of the worker `worker_id`.

    again_seconds: after how long a measurement is tried again whose device was never quiet, one wait
    for each time; then it has ended with that.
    """

    def __init__(
        self,
        engine: Engine,
        worker_id: str,
        lease_seconds: float,
        artifact_root: str | Path,
        slice_seconds: float = 600.0,
        again_seconds: Sequence[float] = (),
    ) -> None:
        self._engine = engine
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._store = ArtefactStore(Path(artifact_root))
        self._slice_seconds = slice_seconds
        self._again_seconds = again_seconds

    def claim(self, device: str, device_uuid: str) -> Unit | None:
        """Lease the next unit for this device, if there is one that may run on it now."""
        with session_scope(self._engine) as session:
            unit = UnitRepository(session).claim(
                self._worker_id, device, device_uuid, self._lease_seconds
            )
        if unit is not None and unit.kind == UnitKind.INSPECT:  # a job's first one
            # Not in the claim's transaction: a step locks the job first and its units then.
            with session_scope(self._engine) as session:
                JobRepository(session).start(unit.job_id)
        return unit

    def request(self, unit: Unit) -> dict[str, Any]:
        """What the device process is to be sent for a unit."""
        with session_scope(self._engine) as session:
            job = JobRepository(session).get(unit.job_id)
            assert job is not None, "a unit's job exists"
            latency_map = None
            if unit.kind == UnitKind.MEASURE:
                key = map_keys(job)[unit.resolution]
                assert key is not None, "a job that is verified has a map"
                record = LatencyMapRepository(session).get(key)
                assert record is not None, "a map in use stands"
                latency_map = record.document
        return unit_request(unit, job, self._store.root, self._slice_seconds, latency_map)

    def known(self, unit: Unit, request: Mapping[str, Any], facts: Mapping[str, Any]) -> Known:
        """What is known of an evaluate unit; nothing where the job does not reuse evaluations.

        facts: hello of the device process that would compute it.
        """
        with session_scope(self._engine) as session:
            job = JobRepository(session).get(unit.job_id)
            assert job is not None, "a unit's job exists"
            keys = unit_keys(unit, job, request["session"], facts)
            reuse = job.request["search"].get("reuse", True)  # an older version's jobs do not say
            cache = EvaluationCacheRepository(session)
            return Known(keys, cache.get(keys) if reuse else {})

    def heartbeat(self, unit: Unit, training: Mapping[str, Any] | None = None) -> Beat:
        """Prolong a lease, and hear whether the unit is still wanted.

        training: how far a slice is, {"step", "steps", "loss"}, for the job's progress.
        """
        with session_scope(self._engine) as session:
            beat = UnitRepository(session).heartbeat(unit.id, unit.attempt, self._lease_seconds)
        if beat == "ok" and training is not None:
            # Not in the heartbeat's transaction: a step locks the job first and its units then.
            with session_scope(self._engine) as session:
                JobRepository(session).set_training(unit.job_id, dict(training))
        return beat

    def finish(
        self, unit: Unit, result: Mapping[str, Any], kept: Mapping[bytes, Any] | None = None
    ) -> bool:
        """Hand in a result; the files of a training take their places together with it, and so do
        the evaluations that are kept for later jobs."""
        error = result.get("error")
        if (seconds := self._wait(unit, error)) is not None:
            return self._postpone(unit, error, seconds, measurements(result))
        with session_scope(self._engine) as session:
            held = UnitRepository(session).finish(unit.id, unit.attempt, dict(result))
            if held:
                _count(session, unit, measurements(result))
            if held and kept:
                EvaluationCacheRepository(session).add(unit.job_id, kept)
            if held and unit.kind in TRAINING_KINDS:
                folder = training_files.attempt_folder(self._store.root, unit)
                training_files.keep(session, self._store, folder, result)
        return held

    def fail(self, unit: Unit, error: Mapping[str, Any], retry: bool) -> bool:
        """Hand in a failure; with `retry` the unit gets another attempt, if it has one left."""
        if (seconds := self._wait(unit, error)) is not None:
            return self._postpone(unit, error, seconds)
        with session_scope(self._engine) as session:
            return UnitRepository(session).fail(unit.id, unit.attempt, dict(error), retry)

    def _wait(self, unit: Unit, error: Mapping[str, Any] | None) -> float | None:
        """In how many seconds a unit with that error is tried again; None: it is not put off.

        At the last of several inputs the error may be that of an input before, which was put off
        for as long as any is.
        """
        before = unit.payload.get("before") or {}
        if (
            unit.kind != UnitKind.MEASURE
            or not _disturbed(error)
            or _disturbed(before.get("error"))
        ):
            return None
        left = self._again_seconds[unit.postponed :]
        return left[0] if left else None

    def _postpone(
        self, unit: Unit, error: Mapping[str, Any], seconds: float, measured: Sequence[str] = ()
    ) -> bool:
        with session_scope(self._engine) as session:
            jobs, units = JobRepository(session), UnitRepository(session)
            jobs.lock(unit.job_id)  # as a step does: the job first and its units then
            held = units.postpone(unit.id, unit.attempt, dict(error), seconds)
            if held:
                _count(session, unit, measured)
                waits = units.get(unit.id)
                assert waits is not None
                assert waits.not_before is not None, "it was put off"
                jobs.set_postponed(unit.job_id, waits.postponed, waits.not_before)
        return held

    def release(self, unit: Unit) -> bool:
        """Give a unit back untouched, for another worker."""
        with session_scope(self._engine) as session:
            return UnitRepository(session).release(unit.id, unit.attempt)

    def cancel(self, unit: Unit) -> bool:
        """Say that work on a cancelled unit has stopped."""
        with session_scope(self._engine) as session:
            return UnitRepository(session).cancel(unit.id, unit.attempt)

    def leave(self, unit: Unit) -> None:
        """Remove what this attempt left on the disk, however it ended."""
        if unit.kind in TRAINING_KINDS:
            training_files.remove(training_files.attempt_folder(self._store.root, unit))


def _disturbed(error: Mapping[str, Any] | None) -> bool:
    return error is not None and error["code"] == DeviceDisturbed.code


def _count(session: Session, unit: Unit, measured: Iterable[str]) -> None:
    TallyRepository(session).add("measurement", [(unit.kind, how, 0.0) for how in measured])


def measurements(result: Mapping[str, Any]) -> list[str]:
    """Of each latency that a unit's result holds the receipt of: "quiet" or "disturbed"."""
    found = list(result.get("receipts", {}).values())
    if "receipt" in result:
        found.append(result["receipt"])
    disturbed = [proof.get("latency_ms", {}).get("disturbed", False) for proof in found]
    return ["disturbed" if one else "quiet" for one in disturbed]
