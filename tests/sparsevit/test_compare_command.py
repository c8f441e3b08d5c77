"""sparsevit compare, as a user types it, on the shipped network: everything measured for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sparsevit.commands import register
from sparsevit.errors import ConfigError

COMMAND = (
    *("compare", "builtin:digits", "builtin:digits", "--quick", "--limit", "4", "--threads", "1"),
    *("--height", "336", "--width", "336", "--train-batch", "1", "--accumulate", "1"),
    *("--resolution", "224", "--narrow", "0.75", "--learning-rate", "1e-5"),
)


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    return app


@pytest.mark.alone
def test_the_whole_comparison(app: typer.Typer, tmp_path: Path) -> None:
    folder = tmp_path / "compare"
    done = CliRunner().invoke(app, [*COMMAND, "-o", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    document = json.loads((folder / "comparison.json").read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert list(rows)[:3] == ["dense", "R224", "W0.75"]
    assert [rows[name]["channels"][0] for name in list(rows)[:3]] == [24, 24, 16]
    assert {row["kind"] for row in rows.values()} >= {"uniform", "searched"}
    assert all(0 <= row["metric"]["mean"] <= 1 for row in rows.values())
    assert rows["R224"]["latency_ms"]["model"]["of_dense"] < 0.8
    # Searched rows were found for the latency of the row they are compared with.
    plan = json.loads((folder / "plan.json").read_text())
    for name in plan["budgets"]:
        assert f"searched ({name})" in rows
        assert f"searched ({name}) beats {name}:" in done.output
    assert "pixel_accuracy" in done.output
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "comparison.csv").read_text().startswith("name,kind,height")

    again = CliRunner().invoke(app, [*COMMAND, "-o", str(folder), "--json"], catch_exceptions=False)
    assert json.loads(again.stdout) == document

    other = [*COMMAND, "-o", str(folder), "--adapt-share", "0.3"]
    with pytest.raises(ConfigError, match="another comparison"):
        CliRunner().invoke(app, other, catch_exceptions=False)


def test_a_resolution_is_one_side_or_two(app: typer.Typer, tmp_path: Path) -> None:
    command = ["compare", "builtin:digits", "builtin:digits", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, "--resolution", "large"])
    assert done.exit_code == 2
    assert "HEIGHTxWIDTH" in done.output
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="below 1"):
        CliRunner().invoke(app, [*command, "--narrow", "1.5"], catch_exceptions=False)
