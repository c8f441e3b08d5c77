"""A worker's lines about a job carry the id of the request that the job comes from."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

from tests.service.api_server import Api
from tests.worker import rows
from tests.worker.conftest import WorkerProcess, wait_until


def test_a_request_is_found_in_the_lines_of_its_worker(
    api: Api, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker("one", LOG_FORMAT="json", ARTIFACT_ROOT=str(api.artefacts.root))
    worker.wait_for("is ready")
    body = rows.request() | {"device": None, "metadata": {}}
    answer = api.ann.post("/search", json=body, headers={"X-Request-ID": "night-7"})
    assert answer.status_code == 202, answer.text
    job = answer.json()["id"]
    wait_until(lambda: api.ann.get(f"/jobs/{job}").json()["finished_at"] is not None, 60)
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0
    # Celery says goodbye in a line of its own.
    lines = [json.loads(line) for line in worker.text.splitlines() if line.startswith("{")]
    about = [line for line in lines if line.get("job") == job]
    assert {line["logger"] for line in about} >= {"worker.slot", "worker.tasks"}
    assert {line.get("request_id") for line in about} == {"night-7"}
    assert len({line["unit"] for line in about if "unit" in line}) > 1
