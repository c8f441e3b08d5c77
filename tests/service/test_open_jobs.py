"""The limit on an owner's jobs under way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.service.api_server import SMALL, running_api
from tests.service.test_body import check_problem


def test_an_owner_has_so_many_jobs_under_way_and_no_more(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with running_api(database_url, redis_url, tmp_path, open_jobs=3) as api:

        def submit(seed: int) -> int:
            return api.ann.post("/search", json={**SMALL, "search": {"seed": seed}}).status_code

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(submit, range(8))) == [202] * 3 + [429] * 5
        for query in ({}, {"dry_run": "true"}):
            answer = api.ann.post("/search", json=SMALL, params=query)
            check_problem(answer, 429, "TOO_MANY_JOBS")
            assert int(answer.headers["retry-after"]) > 0
        assert api.bob.post("/search", json=SMALL).status_code == 202, "others have their own"
        jobs = api.ann.get("/jobs").json()["data"]
        assert len(jobs) == 3
        assert api.ann.post(f"/jobs/{jobs[0]['id']}/cancel").status_code == 200
        assert submit(9) == 202
