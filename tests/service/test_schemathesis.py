"""The running service against its own description, by schemathesis: all of its checks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from service.api.candidate_objects import CANDIDATE_ID
from service.api.described import JOB_ID
from service.api.device_objects import DEVICE
from service.api.receipt_objects import ReceiptObject
from service.api.result_objects import ARCHITECTURE, RECEIPT_ID, ConfigObject, FrontPoint
from service.db.artefacts import WEIGHTS_SUFFIX
from service.db.evaluations import EvaluationRepository
from service.db.jobs import JobRepository
from service.db.receipts import ReceiptRepository
from service.db.session import session_scope
from service.domain.records import Ending, Proposal
from tests.service import figures
from tests.service.api_server import Api, running_api
from tests.service.figures import Lab
from tests.service.test_api_jobs import submit

ROOT = Path(__file__).parents[2]
SEED = "20230607"
MAX_EXAMPLES = "25"
"""Requests of each kind for an operation: with these the run takes about a minute."""

INSPECTION = figures.INSPECTION | {
    "architecture": ARCHITECTURE | {"pairs": [1, 1, 3]},
    "checkpoint_sha256": "c" * 64,
}


@pytest.fixture(scope="module")
def busy_api(
    database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    """An API that takes as many searches as come, with jobs in every state."""
    folder = tmp_path_factory.mktemp("schemathesis")
    with running_api(database_url, redis_url, folder, open_jobs=1_000_000) as api:
        yield api


def example_of(kind: Any) -> Any:
    """A value of a field's type, made of the examples in the description."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {
            name: field.examples[0] if field.examples else example_of(field.annotation)
            for name, field in kind.model_fields.items()
        }
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    some = [one for one in get_args(kind) if one is not type(None)]
    return [example_of(some[0])] if get_origin(kind) is list else example_of(some[0])


PATHS = ("swin-tiny.safetensors", "swin-digits.safetensors", "imagenet/", "street-digits/")
"""Below the data folder: where the examples of the description say that files are."""

COUNT = re.compile(r"(\d[\d,]*) generated")


def facts(api: Api) -> dict[str, Any]:
    """Values that only this service knows: by the format that the description gives them, and by
    the example of it that takes their place there."""
    lab = Lab(api)
    lab.register()
    for path in PATHS:
        place = api.data / path
        place.mkdir() if path.endswith("/") else place.write_bytes(b"weights")
    paths = {f"/srv/data/{path}".rstrip("/"): str(api.data / path).rstrip("/") for path in PATHS}
    jobs = [waiting(api), searching(api, lab), done(api, lab), infeasible(api, lab)]
    cursors = api.ann.get(f"/jobs/{jobs[2]}/candidates").json()["data"]
    candidates = [one["id"] for one in cursors]
    return {
        "job": jobs[2],
        "examples": paths | {DEVICE: figures.MODEL, JOB_ID: jobs[2], CANDIDATE_ID: candidates[0]},
        "formats": {
            "data-path": ["builtin:digits", *paths.values()],
            "device-model": [figures.MODEL, "cuda"],
            "job-id": [*jobs, "job_" + "0" * 32],
            "job-cursor": jobs,
            "candidate-cursor": candidates,
            "receipt-id": [RECEIPT_ID],
        },
    }


def waiting(api: Api) -> str:
    """A queued job."""
    return str(submit(api, device=figures.MODEL)["id"])


def searching(api: Api, lab: Lab) -> str:
    """A job that has evaluated some candidates, and has calibrated."""
    job_id = waiting(api)
    lab.measure(job_id, disturbed=True)  # such figures refuse no budget
    with session_scope(api.engine) as session:
        JobRepository(session).set_inspection(job_id, INSPECTION, figures.MODEL, "c" * 64, "d" * 64)
        evaluations = EvaluationRepository(session)
        proposals = [Proposal(f"[{n}]", [n] * 5, 90.0 - n) for n in range(5)]
        evaluations.add(job_id, 0, proposals)
        rows = evaluations.for_job(job_id)
        error = {"code": "DEVICE_PROCESS_DIED", "message": "it was killed"}
        endings = [
            Ending.done(rows[0].id, 0.5, 40),
            Ending.dropped(rows[1].id, 0.25, (0.125, 0.375), 10),
            Ending.failed(rows[2].id, error),
        ]
        assert evaluations.end(endings) == 3
    return job_id


def done(api: Api, lab: Lab) -> str:
    """A job that has succeeded, with all that one hands out."""
    job_id = searching(api, lab)
    weights = api.data / "made"
    weights.write_bytes(b"made by the job")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    api.artefacts.adopt(weights, digest, WEIGHTS_SUFFIX)
    document = example_of(ConfigObject)
    document["weights"] = {"sha256": digest, "source": "adapted", "dialect": "timm"}
    plots = ("pareto.png", "windows.png", "latency.png")
    with session_scope(api.engine) as session:
        jobs = JobRepository(session)
        png = api.artefacts.put(b"\x89PNG not really")
        jobs.set_front(job_id, [example_of(FrontPoint)], dict.fromkeys(plots, png))
        ReceiptRepository(session).add(job_id, RECEIPT_ID, "latency", example_of(ReceiptObject))
        jobs.succeed(job_id, document)
    return job_id


def infeasible(api: Api, lab: Lab) -> str:
    """A job that has found nothing within its budget."""
    job_id = searching(api, lab)
    with session_scope(api.engine) as session:
        JobRepository(session).fail(job_id, "NO_FEASIBLE_CONFIG", "take a larger budget")
    return job_id


def peers(api: Api, bob: str) -> dict[str, Any]:
    """Two owners, in the form of Web Fuzzing Commons: neither may see what the other one has."""
    keys = {"ann": api.key, "bob": bob}
    return {
        "auth": [
            {
                "name": owner,
                "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {key}"}],
            }
            for owner, key in keys.items()
        ]
    }


@pytest.mark.timeout(400)
def test_every_check_of_schemathesis_passes(
    busy_api: Api, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    api = busy_api
    bob = api.bob.headers["Authorization"].removeprefix("Bearer ")
    (tmp_path / "peers.json").write_text(json.dumps(peers(api, bob)))
    (tmp_path / "schemathesis.toml").write_text(
        'hooks = "tests.service.schemathesis_hooks"\n'
        f'[auth.wfc]\npath = "{tmp_path}/peers.json"\nuser = "ann"\npeers = ["ann", "bob"]\n'
    )
    command = [
        Path(sys.executable).with_name("schemathesis"),
        *("--config-file", tmp_path / "schemathesis.toml"),
        *("run", f"{api.url}/openapi.json"),
        *("--checks", "all"),
        *("--exclude-operation-id", "get_events"),
        *("--seed", SEED),
        *("--max-examples", MAX_EXAMPLES),
        *("--generation-database", "none"),
        *("--continue-on-failure", "--no-color"),
    ]
    environment = os.environ | {
        "SCHEMATHESIS_FACTS": json.dumps(facts(api)),
        "PYTHONPATH": str(ROOT),
    }
    run = subprocess.run(
        [str(part) for part in command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=380,
    )
    print(run.stdout[-20_000:], run.stderr[-5_000:])  # shown where the test fails
    assert run.returncode == 0
    found = COUNT.search(run.stdout)
    assert found is not None, "no request was made"
    record_property("requests made by schemathesis", int(found[1].replace(",", "")))
    assert api.nobody.get("/healthz").status_code == 200
