"""The commands: what they post, what they show, whom they give the key, how they fail."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from service.client import RemoteError
from service.commands import progress, register, summary
from service.commands.common import CommandError, require_success, target, told
from service.commands.demo import REQUEST
from service.commands.request import (
    network_fields,
    parse_latency,
    parse_size,
    parse_training,
    service_path,
)
from service.domain.request import parse_search_request
from service.home import Addresses, default_home, key_file, write_private

NAMES = ["up", "search", "watch", "jobs", "job", "cancel", "config", "pareto", "demo", "keys"]
NAMES += ["calibrate", "devices", "weights"]
ID = "job_0198c5d2a7f07cc1a6a1f1d0c2b3e4f5"


def job(**fields: Any) -> dict[str, Any]:
    """A job as the service shows it."""
    counters = {"done": 0, "failed": 0, "total": 0, "generation": None, "best": None}
    return {
        "id": ID,
        "status": "running",
        "stage": "search",
        "version": 1,
        "created_at": "2026-01-02T03:04:05+00:00",
        "estimated_finish_at": None,
        "progress": counters | fields.pop("progress", {}),
        "request": {"checkpoint": "builtin:digits", "dataset": {"path": "builtin:digits"}},
        "verdicts": [],
        "error": None,
        **fields,
    }


BEST: dict[str, Any] = {
    "architecture": {"patch_size": 4, "window_size": 7, "depths": [2, 2, 6]},
    "input": {"height": 448, "width": 448},
    "kept_windows": [[179, 128], [64, 32], [16, 8, 8, 8, 3, 3]],
    "metric": {
        "name": "digit_miou",
        "value": 0.9,
        "interval": [0.88, 0.92],
        "split": "report",
        "dense": {"value": 0.91, "interval": [0.89, 0.93]},
    },
    "latency_ms": {
        "p50": 12.0,
        "interval": [11.5, 12.5],
        "budget": 12.6,
        "dense": 20.0,
        "scope": "model",
        "device": "a CPU",
        "scopes": {"model": {"dense_interval": [19.0, 21.0]}},
    },
    "macs": {"value": 1.5e9, "dense": 3e9},
}


class FakeClient:
    """Answers with what it was given, one answer a call."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()
    register(application)
    return application


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and nothing of the developer's own environment."""
    for name in ("SPARSEVIT_URL", "SPARSEVIT_KEY", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARSEVIT_HOME", str(tmp_path))
    return tmp_path


def run(app: typer.Typer, *arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(app: typer.Typer, name: str) -> None:
    paths = [[name]] if name != "keys" else [["keys", c] for c in ("create", "list", "revoke")]
    for path in paths:
        shown = run(app, *path, "--help")
        assert shown.exit_code == 0
        assert f"sparsevit {' '.join(path)}" in " ".join(shown.output.split())
        assert "Example" in shown.output


def test_latency_is_milliseconds_or_a_share_of_dense() -> None:
    assert parse_latency("10ms") == {"latency_budget_ms": 10.0}
    assert parse_latency("7.25 ms") == {"latency_budget_ms": 7.25}
    assert parse_latency("60%") == {"latency_budget": "60%"}
    for text in ("10", "60 percent", "-5ms", "", "nan ms", "1e3ms"):
        with pytest.raises(typer.BadParameter):
            parse_latency(text)


def test_sizes_are_inputs_that_share_the_rest() -> None:
    rest = {"device": None, "score": None, "split": {}}
    shape = {"height": None, "width": None, "batch": 2}
    several = network_fields("m", "d", **rest, input=shape, sizes=["448x448", "288 x 792"])
    assert several["input"] == [
        {"height": 448, "width": 448, "batch": 2},
        {"height": 288, "width": 792, "batch": 2},
    ]
    assert network_fields("m", "d", **rest, input=shape)["input"] == {"batch": 2}
    for text in ("448", "x448", "448x", "4.5x3", "448x448x3"):
        with pytest.raises(typer.BadParameter):
            parse_size(text)


def test_a_training_is_the_default_or_settings() -> None:
    assert parse_training(None, "--adapt") is None
    assert parse_training("default", "--adapt") == {}
    text = "epochs=12, learning_rate=1e-5,precision=bf16,augment=false"
    settings = {"epochs": 12, "learning_rate": 1e-5, "precision": "bf16", "augment": False}
    assert parse_training(text, "--adapt") == settings
    for text in ("", "12", "epochs", "epochs=", "rate=1", "epochs=1,,steps=2"):
        with pytest.raises(typer.BadParameter, match="learning_rate"):
            parse_training(text, "--adapt")


def test_a_latency_without_a_unit_is_a_usage_error(app: typer.Typer, home: Path) -> None:
    result = run(app, "search", "builtin:digits", "builtin:digits", "--latency", "10")
    assert result.exit_code == 2
    assert "10ms" in result.stderr


def test_paths_are_made_absolute_and_builtin_names_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert service_path("swin.safetensors") == str(tmp_path / "swin.safetensors")
    assert service_path("builtin:digits") == "builtin:digits"


def test_the_demo_posts_a_request_the_service_takes() -> None:
    request = parse_search_request(REQUEST)
    assert request.latency_budget == "60%"
    assert request.checkpoint == "builtin:digits"


def test_without_a_service_a_command_says_how_to_get_one(app: typer.Typer, home: Path) -> None:
    result = run(app, "jobs")
    assert result.exit_code == 1
    assert "sparsevit up" in result.stderr
    assert "Traceback" not in result.output


def test_the_local_key_goes_to_the_local_service_alone(home: Path) -> None:
    local = Addresses(url="http://127.0.0.1:8000", database_url="postgresql://x", redis_url="r")
    (home / "run").mkdir()
    local.write(home)
    write_private(key_file(home), "svit_local\n")
    assert target(None, None) == (local.url, "svit_local")
    assert target(local.url + "/", None) == (local.url, "svit_local")
    assert target("http://elsewhere:8000", "svit_other") == ("http://elsewhere:8000", "svit_other")
    with pytest.raises(CommandError, match="SPARSEVIT_KEY"):
        target("http://elsewhere:8000", None)


def test_files_with_secrets_are_the_owners_alone(home: Path) -> None:
    (home / "run").mkdir()
    Addresses(url="u", database_url="d", redis_url="r").write(home)
    write_private(key_file(home), "first")
    write_private(key_file(home), "second")
    assert key_file(home).read_text() == "second"
    for file in (key_file(home), home / "run" / "addresses.json"):
        assert file.stat().st_mode & 0o777 == 0o600
    Addresses.forget(home)
    assert Addresses.read(home) is None
    assert default_home() == home


def test_an_error_is_one_sentence_and_exit_code_one(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise CommandError("say what to do")

    with pytest.raises(typer.Exit) as raised:
        told(broken)()
    assert raised.value.exit_code == 1
    assert capsys.readouterr().err == "error: say what to do\n"


def test_a_front_is_written_by_the_ending_of_its_name(app: typer.Typer, home: Path) -> None:
    result = run(app, "pareto", ID, "-o", "front.pdf")
    assert result.exit_code == 2
    assert ".csv" in result.stderr


def test_a_failed_job_is_told_with_its_code_and_message() -> None:
    error = {"code": "BUDGET_UNREACHABLE", "message": "the nearest is 7.1 ms"}
    with pytest.raises(CommandError, match=r"BUDGET_UNREACHABLE: the nearest is 7\.1 ms"):
        require_success(job(status="failed", error=error))
    with pytest.raises(CommandError, match="was cancelled"):
        require_success(job(status="cancelled"))
    require_success(job(status="succeeded"))


def test_progress_names_stage_counts_best_and_time_left() -> None:
    counters = {
        "done": 30,
        "failed": 2,
        "total": 96,
        "generation": 1,
        "best": {"metric": 0.87654, "latency_ms": 12.34},
    }
    running = job(progress=counters, estimated_finish_at="2026-01-02T03:05:10+00:00")
    text = progress.line(running)
    assert text == "searching, generation 2, 32/96 evaluations, best 0.877 at 12.3 ms"
    training = {"training": {"step": 120, "steps": 240, "loss": 0.31049}}
    adapting = job(stage="adapt", progress=counters | {"best": None} | training)
    assert progress.line(adapting) == "adapting the network, loss 0.310, 120/240 steps"
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert progress.left_text(running, now) == "1:05 left"
    assert progress.left_text(job(), now) == ""
    assert progress.stage_text(job(status="queued", stage=None)) == "waiting for a worker"
    assert progress.stage_text(job(status="succeeded")) == "succeeded"
    put_off = {"postponed": {"times": 2, "until": "2026-01-02T03:05:10+00:00"}}
    text = progress.stage_text(job(stage="verify", progress=counters | put_off))
    assert text == "measuring the finalists, put off 2 times as the device was busy"


def test_watching_ends_with_the_job_and_outlives_a_short_absence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0)
    away = RemoteError("UNREACHABLE", "away")
    client = FakeClient(job(), away, job(version=2), job(status="succeeded"), job())
    seen = list(progress.polls(client, ID))  # type: ignore[arg-type]
    assert [one["status"] for one in seen] == ["running", "running", "succeeded"]


def test_watching_tells_of_what_waiting_cannot_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_SECONDS", 0)
    client = FakeClient(job(), RemoteError("JOB_NOT_FOUND", "no such job", 404))
    with pytest.raises(RemoteError, match="no such job"):
        list(progress.polls(client, ID))  # type: ignore[arg-type]


def test_summary_sets_dense_beside_the_best_config() -> None:
    rows = {what.strip(): (dense, best) for what, dense, best in summary.rows(BEST)}
    assert rows["digit_miou (95% interval)"] == (
        "0.910 (0.890 to 0.930)",
        "0.900 (0.880 to 0.920)",
    )
    assert rows["latency, ms (99% interval)"] == (
        "20.00 (19.00 to 21.00)",
        "12.00 (11.50 to 12.50)",
    )
    assert rows["of dense"] == ("100%", "60%")
    assert rows["MACs"] == ("3.00 G", "1.50 G")
    assert rows["windows, stage 1"] == ("512", "307 (60%)")
    assert rows["windows, stage 3"] == ("96", "46 (48%)")


def test_windows_of_dense_are_rounded_up_at_every_stage() -> None:
    uneven = BEST | {"input": {"height": 450, "width": 100}}
    # 113 x 25 tokens: 17 x 4 windows; 57 x 13: 9 x 2; 29 x 7: 5 x 1.
    assert summary.dense_windows(uneven) == [68, 18, 5]
