"""The console command: versions, commands of other packages, errors in one sentence."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import sparsevit
from sparsevit import cli
from sparsevit.errors import ConfigError


def entry(value: str) -> EntryPoint:
    return EntryPoint(name="room", value=value, group=cli.GROUP)


def only(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> typer.Typer:
    monkeypatch.setattr(cli, "entry_points", lambda group: entries)
    return cli.build_app()


def test_version_is_printed() -> None:
    shown = CliRunner().invoke(cli.build_app(), ["--version"])
    assert shown.output == f"sparsevit {sparsevit.__version__}\n"


def test_the_librarys_own_commands_need_no_other_package(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = CliRunner().invoke(only(monkeypatch), ["--help"]).output
    assert all(name in shown for name in ("adapt", "finetune", "bench"))
    assert "up" not in shown.split()


def test_a_package_that_is_left_out_is_told_in_the_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a_room.py").write_text("import a_package_left_out\n")
    monkeypatch.syspath_prepend(tmp_path)
    app = only(monkeypatch, entry("a_room:register"))
    assert "sparsevit[service]" in " ".join(CliRunner().invoke(app, ["--help"]).output.split())


def test_a_fault_of_ours_is_not_taken_for_a_missing_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ModuleNotFoundError):
        only(monkeypatch, entry("sparsevit.no_such_module:register"))


def test_an_error_of_the_library_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def broken() -> None:
        raise ConfigError("say what to do")

    monkeypatch.setattr(cli, "build_app", lambda: app)
    monkeypatch.setattr("sys.argv", ["sparsevit"])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == 1
    assert capsys.readouterr().err == "error: say what to do\n"
