"""Lists over HTTP and their cursors: jobs, candidates, workers, devices."""

from __future__ import annotations

import pytest

from service.api.candidate_objects import CandidateList
from service.api.device_objects import DeviceList, WorkerList
from service.api.objects import JobList, JobObject
from service.db.evaluations import EvaluationRepository
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.domain.records import Ending, Proposal
from tests.service.api_server import Api
from tests.service.test_api_jobs import register, submit
from tests.service.test_body import check_problem


def test_lists_are_walked_by_their_cursor(api: Api) -> None:
    ids = [submit(api)["id"] for _ in range(5)]
    seen, after = [], None
    while True:
        query = {"limit": 2} | ({} if after is None else {"after": after})
        answer = api.ann.get("/jobs", params=query)
        page = answer.json()
        JobList.model_validate_json(answer.content)
        seen += [job["id"] for job in page["data"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        after = page["next_cursor"]
        if after is None:
            break
    assert seen == ids[::-1]
    api.ann.post(f"/jobs/{ids[0]}/cancel")
    cancelled = api.ann.get("/jobs?status=cancelled").json()["data"]
    assert [job["id"] for job in cancelled] == [ids[0]]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=101",
        "limit=1e20",
        "limit=canary-7319",
        "after=canary-7319",
        "after=",
        "after=job_" + "0" * 32,
        "after=%00",
        "status=done",
        "limt=5",
        "limit=1&limit=2",
    ],
)
def test_list_parameters_that_are_refused(api: Api, query: str) -> None:
    check_problem(api.ann.get(f"/jobs?{query}"), 422, "VALIDATION_FAILED")


def test_a_failed_candidate_says_why(api: Api) -> None:
    job_id = submit(api)["id"]
    error = {"code": "DEVICE_PROCESS_DIED", "message": "it was killed"}
    with session_scope(api.engine) as session:
        evaluations = EvaluationRepository(session)
        evaluations.add(job_id, 0, [Proposal("[0]", [0], 10.0)])
        (row,) = evaluations.for_job(job_id)
        assert evaluations.end([Ending.failed(row.id, error)]) == 1
        late = {"code": "OTHER", "message": "too late"}
        assert evaluations.end([Ending.failed(row.id, late)]) == 0
    answer = api.ann.get(f"/jobs/{job_id}/candidates")
    CandidateList.model_validate_json(answer.content)
    (candidate,) = answer.json()["data"]
    assert (candidate["state"], candidate["metric"]) == ("failed", None)
    assert candidate["error"] == error
    assert candidate["finished_at"] is not None


def test_candidates_of_several_inputs_name_theirs(api: Api) -> None:
    sizes = [{"height": 448, "width": 448}, {"height": 224, "width": 224}]
    job_id = submit(api, input=sizes)["id"]
    told = [
        {"input": size, "latency": None, "reachable": True, "planned": 1, "stop": None}
        for size in sizes
    ]
    with session_scope(api.engine) as session:
        assert JobRepository(session).set_resolutions(job_id, told)
        for resolution in (0, 1):  # the same config at both
            proposals = [Proposal("[0]", [0], 10.0)]
            EvaluationRepository(session).add(job_id, 0, proposals, resolution)
    answer = api.ann.get(f"/jobs/{job_id}/candidates")
    CandidateList.model_validate_json(answer.content)
    assert [item["input"] for item in answer.json()["data"]] == sizes
    shown = api.ann.get(f"/jobs/{job_id}")
    JobObject.model_validate_json(shown.content)
    assert [one["input"] for one in shown.json()["resolutions"]] == sizes
    assert "planned" not in shown.json()["resolutions"][0]


def test_candidates_are_walked_by_their_cursor(api: Api) -> None:
    job_id, other = submit(api)["id"], submit(api)["id"]
    with session_scope(api.engine) as session:
        evaluations = EvaluationRepository(session)
        proposals = [Proposal(f"[{n}]", [n], 10.0 + n) for n in range(3)]
        evaluations.add(job_id, 0, proposals)
        evaluations.add(other, 0, proposals)
        ended = evaluations.for_job(job_id)
        evaluations.end([Ending.done(ended[0].id, 0.5, 40)])
        rival = [Proposal("[3]", [3], 12.0, rival_id=ended[0].id)]
        evaluations.add(job_id, 1, rival)
        racing = evaluations.for_job(job_id)[3]
        evaluations.end([Ending.dropped(racing.id, 0.25, (0.125, 0.375), 10)])
        foreign = evaluations.for_job(other)[0].id
    answer = api.ann.get(f"/jobs/{job_id}/candidates?limit=2")
    first = answer.json()
    CandidateList.model_validate_json(answer.content)
    assert [item["genes"] for item in first["data"]] == [[0], [1]]
    assert [first["data"][0][name] for name in ("state", "metric", "images", "rival")] == [
        "done", 0.5, 40, None,
    ]  # fmt: skip
    rest = api.ann.get(f"/jobs/{job_id}/candidates?after={first['next_cursor']}").json()
    assert ([item["genes"] for item in rest["data"]], rest["has_more"]) == ([[2], [3]], False)
    dropped = rest["data"][1]
    assert (dropped["state"], dropped["metric"], dropped["images"]) == ("dropped", 0.25, 10)
    assert dropped["metric_interval"] == [0.125, 0.375]
    assert dropped["rival"] == first["data"][0]["id"]
    for forged in ("eval_0", "eval_99999999999999999999", f"eval_{foreign}", "x"):
        answer = api.ann.get(f"/jobs/{job_id}/candidates?after={forged}")
        check_problem(answer, 422, "VALIDATION_FAILED")


def test_workers_and_devices_are_listed(api: Api) -> None:
    register(api, "Testium 3000")
    answer = api.ann.get("/workers")
    WorkerList.model_validate_json(answer.content)
    (worker,) = answer.json()["data"]
    assert (worker["device"], worker["state"], worker["online"]) == ("Testium 3000", "idle", True)
    answer = api.ann.get("/devices")
    DeviceList.model_validate_json(answer.content)
    assert answer.json()["data"] == [
        {
            "name": "Testium 3000",
            "object": "device",
            "kind": "cpu",
            "workers_online": 1,
            "latency_maps": [],
        }
    ]
