"""search --dry-run, calibrate, devices: against a real API, whose worker the test plays."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text

from service.commands.answers import accuracy_text, input_text, padding_text, share_text
from service.db.session import session_scope
from tests.service.api_server import Api
from tests.service.conftest import Command
from tests.service.figures import Lab, summary
from tests.service.test_api_jobs import submit

DIGITS = ("builtin:digits", "builtin:digits")
SEARCH = ("search", *DIGITS, "--dry-run", "--latency")
CALIBRATE = ("calibrate", "builtin:digits", "builtin:digits")


@pytest.fixture
def lab(api: Api) -> Lab:
    """One online worker."""
    lab = Lab(api)
    lab.register()
    return lab


@contextmanager
def working(lab: Lab, end: Callable[[str], None]) -> Iterator[None]:
    """Ends the first dry run that is started meanwhile."""

    def work() -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with session_scope(lab.api.engine) as session:
                job_id = session.scalar(text("SELECT id FROM jobs WHERE dry_run"))
            if job_id is not None:
                end(job_id)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def measured(lab: Lab) -> Callable[[str], None]:
    def end(job_id: str) -> None:
        lab.measure(job_id)
        lab.succeed(job_id)

    return end


def known(lab: Lab, run: Command) -> None:
    """The figures stand."""
    with working(lab, measured(lab)):
        assert run(*SEARCH, "60%").exit_code == 0


def test_a_dry_run_waits_for_the_figures_and_shows_what_the_budget_leaves(
    lab: Lab, run: Command
) -> None:
    with working(lab, measured(lab)):
        shown = run(*SEARCH, "60%")
    assert shown.exit_code == 0, shown.output
    assert shown.stderr.endswith("succeeded\n")
    for part in (
        "latency of the model on Testium 3000",
        "120.00 ms",
        "60.00 to 120.00 ms",
        "72.00 ms (60.0% of dense)",
        "35.0% of the configs",
        "mean error 1.0%",
        "stage 1: +5%",
        "448 x 448: 95.00 ms dense",
    ):
        assert part in shown.stdout


def test_a_budget_out_of_reach_names_the_nearest(lab: Lab, run: Command) -> None:
    known(lab, run)
    shown = run(*SEARCH, "30ms", "--scope", "backbone")
    assert "none: the nearest possible budget is 42.000 ms (42.0%)" in shown.stdout
    refused = run("search", *DIGITS, "--latency", "30ms")
    assert refused.exit_code == 1
    assert "62.000 ms" in refused.stderr


def test_json_is_the_answer_alone(lab: Lab, run: Command) -> None:
    with working(lab, measured(lab)):
        answer = json.loads(run(*SEARCH, "60%", "--json").stdout)
    assert (answer["inspection"], answer["latency"]["min_ms"]) == ("ready", 60.0)
    assert json.loads(run(*CALIBRATE, "--json").stdout) == summary()


def test_input_options_are_posted(lab: Lab, run: Command) -> None:
    options = ("--height", "224", "--width", "256", "--batch", "2", "--precision", "bf16")
    options += ("--mode", "cuda_graph", "--threads", "3", "--score", "l2", "--limit", "8")
    with working(lab, measured(lab)):
        answer = json.loads(run(*SEARCH, "60%", "--json", *options).stdout)
    assert answer["request"]["input"] == {
        "height": 224,
        "width": 256,
        "batch": 2,
        "precision": "bf16",
        "mode": "cuda_graph",
        "threads": 3,
    }
    assert answer["request"]["score"] == "l2"
    assert answer["request"]["dataset"]["limit"] == 8
    assert run(*CALIBRATE, *options).exit_code == 0, "the same question: nothing is measured anew"
    assert run(*SEARCH, "60%", "--mode", "jit").exit_code == 2


def test_calibrate_shows_both_scopes_and_the_shares(lab: Lab, run: Command) -> None:
    with working(lab, measured(lab)):
        shown = run(*CALIBRATE)
    assert shown.exit_code == 0, shown.output
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert lines[0] == "Testium 3000, 450 x 448, batch 1, fp32, eager, 1 thread, score variance"
    for line in (
        "dense, ms 120.00 100.00",
        "fastest config, ms 60.00 40.00",
        "slowest config, ms 120.00 100.00",
        "nearest possible budget, ms 62.00 42.00",
        "configs within 80% of dense 60.0% 66.7%",
        "configs within 60% of dense 35.0% 41.7%",
        "configs within 40% of dense 0.0% 25.0%",
        "padding stage 1: +5%",
    ):
        assert line in lines


def test_a_job_is_shown_with_its_range(api: Api, lab: Lab, run: Command) -> None:
    job_id = submit(api, latency_scope="backbone")["id"]
    assert "latency " not in run("job", job_id).stdout
    lab.measure(job_id)
    shown = " ".join(run("job", job_id).stdout.split())
    assert "backbone latency dense 100.00 ms, configs 40.00 to 100.00 ms" in shown


def test_what_cannot_be_measured_is_told_with_its_code(lab: Lab, run: Command) -> None:
    with working(lab, lab.fail):
        shown = run(*CALIBRATE)
    assert shown.exit_code == 1
    assert "CHECKPOINT_CORRUPT: download it again" in shown.stderr
    again = run(*SEARCH, "60%")  # the answer stands for a while
    assert (again.exit_code, "CHECKPOINT_CORRUPT" in again.stderr) == (1, True)


def test_devices_are_shown_with_their_maps(api: Api, lab: Lab, run: Command) -> None:
    assert "Testium 3000 (cuda), workers online: 1" in run("devices").stdout
    known(lab, run)
    lab.register(torch="another")
    shown = run("devices").stdout
    for part in ("450 x 448", "variance", "120.00", "60.00 - 120.00", "35.0%", "1.0% off", "stale"):
        assert part in shown
    (device,) = json.loads(run("devices", "--json").stdout)
    assert device["latency_maps"][0]["stale"] is True
    api.empty()
    assert "no device is known" in run("devices").stdout


def test_texts() -> None:
    shape: dict[str, Any] = summary()["input"]
    assert input_text(shape | {"threads": 4}).endswith("eager, 4 threads")
    assert input_text(shape | {"threads": None}).endswith("eager")
    shares = [share_text(share) for share in (0.0, 1e-7, 0.001, 0.5, 1.0)]
    assert shares == ["0.0%", "under 0.1%", "0.1%", "50.0%", "100.0%"]
    assert accuracy_text(None) == "not measured"
    assert padding_text([{"stage": 0, "padded": 4, "real": 4, "ratio": 1.0}]) == "none"
