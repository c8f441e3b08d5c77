"""POST /search?dry_run=true, and what its answers mean for a search that follows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from service.api.latency_objects import DryRunObject
from service.api.objects import JobObject
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.db.units import UnitRepository
from service.domain.status import UnitKind
from tests.service.api_server import SMALL, Api
from tests.service.figures import KEY, MODEL, Lab, summary
from tests.service.test_api_jobs import submit
from tests.service.test_body import INVALID, MALFORMED, check_problem


@pytest.fixture
def lab(api: Api) -> Lab:
    """One online worker."""
    lab = Lab(api)
    lab.register()
    return lab


def post(client: httpx.Client, **changes: Any) -> httpx.Response:
    body = {name: value for name, value in (SMALL | changes).items() if value is not None}
    return client.post("/search?dry_run=true", json=body)


def ask(api: Api, **changes: Any) -> dict[str, Any]:
    """A dry run's answer, as described."""
    answer = post(api.ann, **changes)
    assert answer.status_code == 200, answer.text
    DryRunObject.model_validate_json(answer.content)
    assert ("retry-after" in answer.headers) == (answer.json()["inspection"] == "pending")
    found: dict[str, Any] = answer.json()
    return found


def started(api: Api, **changes: Any) -> str:
    """The id of the job a dry run has started."""
    answer = ask(api, **changes)
    assert answer["inspection"] == "pending"
    return str(answer["job"]).removeprefix("/jobs/")


def jobs_in(api: Api) -> int | None:
    with session_scope(api.engine) as session:
        return session.scalar(text("SELECT count(*) FROM jobs"))


class TestPending:
    def test_nothing_known_starts_a_job_that_lists_do_not_show(self, api: Api, lab: Lab) -> None:
        answer = ask(api)
        assert (answer["object"], answer["inspection"]) == ("dry_run", "pending")
        assert (answer["latency"], answer["error"], answer["verdicts"]) == (None, None, [])
        assert answer["request"]["search"]["population"] == 100
        assert answer["request"]["device"] == MODEL
        shown = api.ann.get(answer["job"])
        JobObject.model_validate_json(shown.content)
        assert (shown.json()["status"], shown.json()["dry_run"]) == ("queued", True)
        assert shown.json()["latency"] is None
        assert api.ann.get("/jobs").json()["data"] == []
        job_id = shown.json()["id"]
        check_problem(api.ann.get(f"/jobs?after={job_id}"), 422, "VALIDATION_FAILED")
        check_problem(api.bob.get(answer["job"]), 404, "JOB_NOT_FOUND")
        with session_scope(api.engine) as session:
            (unit,) = UnitRepository(session).for_job(job_id)
        assert (unit.kind, unit.device) == (UnitKind.INSPECT, MODEL)

    def test_asking_again_starts_nothing(self, api: Api, lab: Lab) -> None:
        job_id = started(api)
        assert started(api) == job_id
        assert started(api, latency_budget="70%", latency_scope="backbone") == job_id
        with session_scope(api.engine) as session:
            JobRepository(session).start(job_id)
        assert started(api, metadata={"a": "b"}, search={"seed": 3}) == job_id
        assert started(api, search={"levels": [0, 8]}) != job_id

    def test_many_at_once_start_one(self, api: Api, lab: Lab) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: post(api.ann).json()["job"], range(16)))
        assert len(set(answers)) == 1

    def test_each_owner_has_their_own(self, api: Api, lab: Lab) -> None:
        job_id = started(api)
        lab.measure(job_id)
        other = post(api.bob).json()
        assert other["inspection"] == "pending"
        assert other["job"] != f"/jobs/{job_id}"

    def test_before_any_worker_was_seen_it_is_any_device(self, api: Api) -> None:
        job_id = started(api)
        assert started(api) == job_id
        lab = Lab(api)
        lab.register()
        assert started(api) == job_id, "the only device known by now is the one it will run on"
        lab.measure(job_id)
        assert ask(api)["inspection"] == "ready"

    def test_a_cancelled_one_is_started_anew(self, api: Api, lab: Lab) -> None:
        job_id = started(api)
        assert api.ann.post(f"/jobs/{job_id}/cancel").json()["status"] == "cancelled"
        assert started(api) != job_id

    def test_a_file_that_changed_is_another(self, api: Api, lab: Lab) -> None:
        file = api.data / "model.safetensors"
        file.write_bytes(b"123")
        first = started(api, checkpoint=str(file))
        lab.measure(first)
        assert ask(api, checkpoint=str(file))["inspection"] == "ready"
        file.write_bytes(b"1234")
        assert started(api, checkpoint=str(file)) != first

    def test_it_has_no_result(self, api: Api, lab: Lab) -> None:
        job_id = started(api)
        lab.measure(job_id)
        lab.succeed(job_id)
        problem = check_problem(api.ann.get(f"/jobs/{job_id}/config"), 409, "RESULT_NOT_READY")
        assert "dry run" in problem["detail"]


class TestReady:
    def test_the_figures_answer_the_budget(self, api: Api, lab: Lab) -> None:
        job_id = started(api)
        lab.measure(job_id)
        lab.succeed(job_id)
        answer = ask(api)
        assert answer["inspection"] == "ready"
        assert answer["job"] == f"/jobs/{job_id}"
        assert answer["latency"] == {
            "scope": "model",
            "dense_ms": 120.0,
            "min_ms": 60.0,
            "max_ms": 120.0,
            "nearest_ms": 62.0,
            "budget_ms": 72.0,
            "feasible_share": pytest.approx(0.35),
            "reachable": True,
            **{
                name: summary()[name]
                for name in ("key", "device", "accuracy", "padding", "aligned", "disturbed")
            },
        }
        assert api.ann.get(answer["job"]).json()["latency"] == summary()

    def test_budget_and_scope_are_those_of_this_request(self, api: Api, lab: Lab) -> None:
        lab.measure(started(api))
        tight = ask(api, latency_scope="backbone", latency_budget=None, latency_budget_ms=39.0)
        assert tight["request"]["latency_budget_ms"] == 39.0
        found = tight["latency"]
        assert (found["budget_ms"], found["feasible_share"], found["reachable"]) == (39.0, 0, False)
        assert found["nearest_ms"] == 42.0

    def test_a_search_answers_as_well(self, api: Api, lab: Lab) -> None:
        job_id = submit(api)["id"]
        lab.measure(job_id)
        with session_scope(api.engine) as session:
            JobRepository(session).add_verdicts(job_id, ["HEAD_DOMINATES"])
        lab.fail(job_id)
        answer = ask(api)
        assert (answer["inspection"], answer["job"]) == ("ready", f"/jobs/{job_id}")
        assert answer["verdicts"] == ["HEAD_DOMINATES"]

    @pytest.mark.parametrize("name", ["torch", "sparsevit", "driver"])
    def test_figures_of_other_versions_do_not(self, api: Api, lab: Lab, name: str) -> None:
        job_id = started(api)
        lab.measure(job_id)
        lab.succeed(job_id)
        lab.register(**{name: "another"})
        assert started(api) != job_id
        lab.register()
        assert ask(api)["inspection"] == "ready"

    def test_figures_of_a_disturbed_device_answer_for_a_while(self, api: Api, lab: Lab) -> None:
        job_id = started(api)
        lab.measure(job_id, disturbed=True)
        lab.succeed(job_id)
        assert ask(api)["latency"]["disturbed"] is True
        tight = submit(api, latency_budget="1%")
        assert tight["status"] == "queued", "rough figures refuse no search"
        lab.age(11)
        assert started(api) != job_id


class TestFailed:
    def test_it_is_told_for_ten_minutes_and_then_tried_anew(self, api: Api, lab: Lab) -> None:
        job_id = started(api)
        lab.fail(job_id)
        for minutes in (0, 9):
            lab.age(minutes)
            answer = ask(api)
            assert (answer["inspection"], answer["latency"]) == ("failed", None)
            assert answer["error"]["code"] == "CHECKPOINT_CORRUPT"
            assert answer["job"] == f"/jobs/{job_id}"
        lab.age(2)
        assert started(api) != job_id

    def test_a_failed_search_says_nothing(self, api: Api, lab: Lab) -> None:
        lab.fail(submit(api)["id"])
        assert ask(api)["inspection"] == "pending"


class TestSearch:
    def test_a_budget_known_to_be_out_of_reach_is_refused(self, api: Api, lab: Lab) -> None:
        lab.measure(started(api))
        body = {**SMALL, "latency_budget": "10%"}
        problem = check_problem(api.ann.post("/search", json=body), 422, "BUDGET_UNREACHABLE")
        assert "62.000 ms (51.7% of dense)" in problem["detail"]
        assert problem["errors"][0]["pointer"] == "/latency_budget"
        assert api.ann.get("/jobs").json()["data"] == []
        assert submit(api, latency_budget="51.7%")["status"] == "queued"

    def test_what_is_not_known_is_not_refused(self, api: Api, lab: Lab) -> None:
        lab.measure(started(api))
        assert submit(api, latency_budget="10%", score="l2")["status"] == "queued"
        lab.register(torch="another")
        assert submit(api, latency_budget="10%")["status"] == "queued"

    def test_without_the_parameter_or_with_false_it_is_a_search(self, api: Api, lab: Lab) -> None:
        answer = api.ann.post("/search?dry_run=false", json=SMALL)
        assert answer.status_code == 202
        assert answer.json()["dry_run"] is False


@pytest.mark.parametrize("name", INVALID)
def test_fields_are_refused_as_in_a_search(api: Api, lab: Lab, name: str) -> None:
    body, _ = INVALID[name]
    headers = {"Content-Type": "application/json"}
    dry, real = (
        check_problem(
            api.ann.post(f"/search{query}", content=body, headers=headers), 422, "VALIDATION_FAILED"
        )
        for query in ("?dry_run=true", "")
    )
    assert dry["errors"] == real["errors"]
    assert jobs_in(api) == 0


@pytest.mark.parametrize("name", ["empty", "NaN", "duplicate key", "UTF-16"])
def test_bodies_are_refused_as_in_a_search(api: Api, name: str) -> None:
    answer = api.ann.post(
        "/search?dry_run=true",
        content=MALFORMED[name],
        headers={"Content-Type": "application/json"},
    )
    check_problem(answer, 400, "MALFORMED_JSON")


def test_paths_and_strangers_are_refused_as_in_a_search(api: Api) -> None:
    for path, code in (("/etc/shadow", "PATH_NOT_ALLOWED"), ("s3://x", "URL_NOT_ALLOWED")):
        check_problem(post(api.ann, checkpoint=path), 422, code)
    check_problem(post(api.ann, device="cuda:999"), 422, "VALIDATION_FAILED")
    check_problem(post(api.nobody), 401, "UNAUTHENTICATED")


class TestDevices:
    def test_the_maps_that_stand_are_listed_with_their_figures(self, api: Api, lab: Lab) -> None:
        lab.measure(submit(api)["id"])
        lab.measure(submit(api)["id"], disturbed=True)  # serves its own job alone
        (device,) = api.ann.get("/devices").json()["data"]
        (found,) = device["latency_maps"]
        assert found.pop("created_at")
        assert found == {
            "key": KEY,
            "object": "latency_map",
            "stale": False,
            **{
                name: summary()[name]
                for name in ("input", "score", "disturbed", "accuracy", "scopes")
            },
        }

    def test_a_map_is_stale_once_the_workers_have_other_versions(self, api: Api, lab: Lab) -> None:
        lab.measure(submit(api)["id"])
        lab.register(driver="580")
        (device,) = api.ann.get("/devices").json()["data"]
        assert device["latency_maps"][0]["stale"] is True
        lab.register("two")
        (device,) = api.ann.get("/devices").json()["data"]
        assert (device["workers_online"], device["latency_maps"][0]["stale"]) == (2, False)


def test_every_field_is_described_and_most_have_an_example(api: Api) -> None:
    document = api.nobody.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"DryRunObject", "LatencyMapObject", "LatencyObject"} <= set(schemas)
    post_search = document["paths"]["/search"]["post"]
    dry_run, key = post_search["parameters"]
    assert (dry_run["name"], dry_run["schema"]["enum"]) == ("dry_run", ["true", "false"])
    assert (key["name"], key["in"]) == ("Idempotency-Key", "header")
    assert "$ref" in post_search["responses"]["200"]["content"]["application/json"]["schema"]
    for model in ("DryRunLatency", "ScopeFigures", "Accuracy", "Padding"):
        for name, one in schemas[model]["properties"].items():
            told = {"description", "examples", "enum", "$ref", "anyOf"} & set(one)
            assert told, f"{model}.{name} says nothing"
