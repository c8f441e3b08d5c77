"""The best config so far, of a job that has no result yet."""

from __future__ import annotations

import json
from pathlib import Path

from service.db.evaluations import EvaluationRepository
from service.db.jobs import JobRepository
from service.db.session import session_scope
from service.domain.records import Ending, Proposal
from service.domain.status import Stage
from sparsevit.deploy import SCHEMA_VERSION, load_config
from tests.service.api_server import SMALL, Api
from tests.service.test_body import check_problem
from tests.worker.rows import INSPECTION

GENES = {"slow": [0, 1, 2, 8], "fast": [1, 2, 3, 8], "worse": [4, 4, 4, 4], "open": [8] * 4}


def searching(api: Api) -> str:
    """A job in its search, none of whose candidates is evaluated."""
    job_id: str = api.ann.post("/search", json=SMALL).json()["id"]
    with session_scope(api.engine) as session:
        jobs = JobRepository(session)
        jobs.start(job_id)
        inspection = {**INSPECTION, "architecture": {"depths": [2, 4, 2], "pairs": [1, 2, 1]}}
        jobs.set_inspection(job_id, inspection, "Testium 3000", "c" * 64, "d" * 64)
        jobs.set_stage(job_id, Stage.SEARCH)
        proposals = [
            Proposal(name, genes, 10.0 - i) for i, (name, genes) in enumerate(GENES.items())
        ]
        EvaluationRepository(session).add(job_id, 0, proposals)
    return job_id


def score(api: Api, job_id: str, **metrics: float) -> None:
    with session_scope(api.engine) as session:
        evaluations = EvaluationRepository(session)
        for row in evaluations.for_job(job_id):
            if row.config_key in metrics:
                evaluations.end([Ending.done(row.id, metrics[row.config_key], 40)])


def test_it_is_the_best_candidate_so_far_and_says_what_it_is(api: Api, tmp_path: Path) -> None:
    job_id = searching(api)
    path = f"/jobs/{job_id}/config"
    check_problem(api.ann.get(path, params={"partial": "true"}), 409, "RESULT_NOT_READY")
    score(api, job_id, slow=0.5, fast=0.5, worse=0.4)
    check_problem(api.ann.get(path), 409, "RESULT_NOT_READY")
    answer = api.ann.get(path, params={"partial": "true"})
    assert answer.status_code == 200
    assert answer.headers["etag"]
    document = answer.json()
    assert (document["partial"], document["receipt"]) == (True, None)
    assert document["metric"] == {
        "name": INSPECTION["metric"]["name"],
        "value": 0.5,
        "split": "val",
    }
    assert document["latency_ms"] == {"predicted": 9.0, "scope": "model", "device": "Testium 3000"}
    assert document["weights"] == {"sha256": "c" * 64, "source": "checkpoint"}
    assert document["schema_version"] == SCHEMA_VERSION
    file = tmp_path / "partial.json"
    file.write_bytes(answer.content)
    config = load_config(file)
    assert [list(stage) for stage in config.sparsity.ratios] == [[0.1], [0.2, 0.3], [0.8]]
    assert (config.sparsity.score, config.weights_sha256) == ("variance", "c" * 64)


def test_a_job_that_has_a_result_hands_out_that(api: Api) -> None:
    job_id = searching(api)
    score(api, job_id, slow=0.5)
    with session_scope(api.engine) as session:
        JobRepository(session).succeed(job_id, {"z": 1})
    for query in ({}, {"partial": "true"}, {"partial": "false"}):
        answer = api.ann.get(f"/jobs/{job_id}/config", params=query)
        assert json.loads(answer.content) == {"z": 1}


def test_it_is_its_owners_alone(api: Api) -> None:
    path = f"/jobs/{searching(api)}/config"
    check_problem(api.bob.get(path, params={"partial": "true"}), 404, "JOB_NOT_FOUND")
    check_problem(api.ann.get(path, params={"partial": "yes"}), 422, "VALIDATION_FAILED")
