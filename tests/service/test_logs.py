"""The lines of the log, as handlers write them, and as processes of ours do."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.domain.keys import new_key
from service.domain.logs import JsonLines, TextLines, about

ROOT = Path(__file__).parents[2]
ODD = "one\ntwo\r\0\x1b[31m\x7f\x85\u2028\ud800 caf\u00e9"


class Lines:
    """What a logger has written so far."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(formatter)
        self.logger = logging.Logger("worker.slot")
        self.logger.addHandler(handler)

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def as_json() -> Lines:
    return Lines(JsonLines({"device": "cuda:0"}))


@pytest.fixture
def as_text() -> Lines:
    return Lines(TextLines())


def test_a_json_line_says_when_what_and_what_about(as_json: Lines) -> None:
    with about(job="job_1", unit=7):
        with about(attempt=2):
            as_json.logger.warning("unit %d failed", 7, extra={"other": "not a field"})
        as_json.logger.info("done", extra={"request_id": "id-1"})
    as_json.logger.info("outside")
    first, second, third = (json.loads(line) for line in as_json.text.splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "WARNING",
        "logger": "worker.slot",
        "message": "unit 7 failed",
        "job": "job_1",
        "unit": 7,
        "attempt": 2,
        "device": "cuda:0",
    }
    assert (second["request_id"], second["unit"], "attempt" in second) == ("id-1", 7, False)
    assert "job" not in third


def test_a_text_line_ends_in_what_it_is_about(as_text: Lines) -> None:
    with about(job="job_1", attempt=2):
        as_text.logger.warning("late")
    assert as_text.text.endswith("Z WARNING worker.slot: late [job=job_1 attempt=2]\n")


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()])
def test_nothing_that_is_quoted_can_begin_another_line(formatter: logging.Formatter) -> None:
    lines = Lines(formatter)
    with about(job=ODD):
        lines.logger.error("%s", ODD)
    lines.text.encode()
    assert len(lines.text.splitlines()) == 1
    assert not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in lines.text.rstrip("\n"))
    if isinstance(formatter, JsonLines):
        assert json.loads(lines.text)["message"] == ODD


def raising(logger: logging.Logger) -> None:
    try:
        raise ValueError("first\n2026-01-01 CRITICAL forged: line\r")
    except ValueError:
        logger.exception("it failed")


def test_a_traceback_is_kept_apart_from_lines(as_json: Lines, as_text: Lines) -> None:
    raising(as_json.logger)
    (line,) = as_json.text.splitlines()
    assert json.loads(line)["error"].startswith("Traceback")
    raising(as_text.logger)
    first, *rest = as_text.text.splitlines()
    assert first.endswith("it failed")
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert "\r" not in as_text.text


@pytest.mark.parametrize("formatter", [JsonLines(), TextLines()])
def test_no_key_and_no_password_gets_into_a_line(formatter: logging.Formatter) -> None:
    lines, key = Lines(formatter), new_key()
    secrets = (
        f"{key} Authorization: Bearer {key[5:]} redis://:hush1@host postgresql://ann:hush2@host/x"
    )
    with about(worker=key):
        lines.logger.error(secrets)
        try:
            float(secrets)
        except ValueError:
            lines.logger.exception("failed")
    assert key[5:] not in lines.text
    assert "hush" not in lines.text
    assert "postgresql://ann:***@host/x" in lines.text


PROCESS = """
import logging, sys
from service.domain.logs import about, configure
configure("INFO", sys.argv[1], device="cpu")
with about(job="job_1"):
    logging.getLogger("service.x").info("ours")
    logging.getLogger("kombu").info("quiet")
    logging.getLogger("kombu").warning("loud")
"""


@pytest.fixture(params=["json", "text"])
def written(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    """The form, and what a process that writes it leaves on standard error."""
    command = [sys.executable, "-c", PROCESS, request.param]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    return request.param, done.stderr.splitlines()


def test_a_process_writes_its_own_lines_and_others_warnings(
    written: tuple[str, list[str]],
) -> None:
    form, lines = written
    assert len(lines) == 2
    if form == "json":
        found: list[Any] = [json.loads(line) for line in lines]
        assert [line["message"] for line in found] == ["ours", "loud"]
        assert {(line["job"], line["device"]) for line in found} == {("job_1", "cpu")}
    else:
        assert lines[1].endswith("WARNING kombu: loud [job=job_1 device=cpu]")
