"""POST /jobs/ID/cancel, whatever the job is doing."""

from __future__ import annotations

import httpx

from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.status import UnitKind
from tests.service.api_server import Api
from tests.service.conftest import unit_states
from tests.service.test_api_jobs import submit
from tests.service.test_body import check_problem


def claim(api: Api) -> None:
    with session_scope(api.engine) as session:
        assert UnitRepository(session).claim("w", "Testium", "uuid", 60) is not None


def cancel(api: Api, job_id: str) -> httpx.Response:
    return api.ann.post(f"/jobs/{job_id}/cancel")


class TestCancel:
    def test_a_queued_job_ends_at_once(self, api: Api) -> None:
        job_id = submit(api)["id"]
        answer = cancel(api, job_id)
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        assert answer.json()["cancel_requested_at"] is not None
        assert answer.json()["finished_at"] is not None
        again = cancel(api, job_id)
        assert (again.status_code, again.json()) == (200, answer.json())
        with session_scope(api.engine) as session:
            assert unit_states(session, job_id) == {"cancelled": 1}

    def test_a_job_whose_first_unit_is_held_is_told(self, api: Api) -> None:
        job_id = submit(api)["id"]
        claim(api)
        answer = cancel(api, job_id)
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")

    def test_a_running_job_is_cancelling_until_its_workers_stop(self, api: Api) -> None:
        job_id = submit(api)["id"]
        claim(api)
        with session_scope(api.engine) as session:
            JobRepository(session).start(job_id)
            UnitRepository(session).add(job_id, UnitKind.EVALUATE, {}, 0, 0)
        first = cancel(api, job_id)
        assert (first.status_code, first.json()["status"]) == (202, "cancelling")
        assert "retry-after" in first.headers
        again = cancel(api, job_id)
        assert (again.status_code, again.json()["version"]) == (202, first.json()["version"])
        with session_scope(api.engine) as session:
            assert unit_states(session, job_id) == {"leased": 1, "cancelled": 1}

    def test_a_job_that_has_ended_stays(self, api: Api) -> None:
        job_id = submit(api)["id"]
        with session_scope(api.engine) as session:
            JobRepository(session).fail(job_id, "CODE", "")
        check_problem(cancel(api, job_id), 409, "JOB_ALREADY_TERMINAL")


def test_a_cancellation_does_not_wait_for_a_claim_that_is_under_way(api: Api) -> None:
    job_id = submit(api)["id"]
    with session_scope(api.engine) as session:
        units = UnitRepository(session)
        unit = units.claim("w", "Testium", "uuid", 60)
        answer = cancel(api, job_id)
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
        assert unit is not None
        JobRepository(session).start(job_id)
    with session_scope(api.engine) as session:
        assert UnitRepository(session).heartbeat(unit.id, unit.attempt, 60) == "cancel"
        assert api.ann.get(f"/jobs/{job_id}").json()["status"] == "cancelling"
