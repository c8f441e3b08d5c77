"""What a device process keeps, and what it checks before it uses it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from service.db.artefacts import ArtefactStore
from service.paths import PathResolver
from sparsevit.errors import CheckpointMismatch, DatasetError
from tests.worker import rows
from tests.worker.conftest import recorded
from worker.files import check_files
from worker.requests import on_own_weights, session_arguments
from worker.warm import WarmSessions


class TestWarmSessions:
    def sessions(self, capacity: int = 2) -> tuple[WarmSessions[str], list[str]]:
        opened: list[str] = []

        def open_session(arguments: Mapping[str, Any]) -> str:
            opened.append(arguments["name"])
            return f"session of {arguments['name']}"

        return WarmSessions(open_session, capacity), opened

    def test_opens_each_once(self) -> None:
        sessions, opened = self.sessions()
        for _ in range(3):
            assert sessions.get({"name": "a", "input": {"x": 1}}) == "session of a"
        assert opened == ["a"]

    def test_the_least_recently_used_goes(self) -> None:
        sessions, opened = self.sessions()
        for name in ("a", "b", "a", "c", "a", "b"):
            sessions.get({"name": name})
        assert opened == ["a", "b", "c", "b"]

    def test_a_renamed_session_is_found_under_its_new_name(self) -> None:
        sessions, opened = self.sessions()
        sessions.get({"name": "a"})
        sessions.rename({"name": "a"}, {"name": "a", "settled": True})
        assert sessions.get({"name": "a", "settled": True}) == "session of a"
        assert opened == ["a"]
        sessions.get({"name": "a"})
        assert opened == ["a", "a"]

    def test_cleared_sessions_are_opened_again(self) -> None:
        sessions, opened = self.sessions()
        sessions.get({"name": "a"})
        sessions.clear()
        sessions.get({"name": "a"})
        assert opened == ["a", "a"]


class TestCheckFiles:
    def test_unchanged_and_built_in_files_pass(self, tmp_path: Path) -> None:
        file = tmp_path / "model.safetensors"
        file.write_bytes(b"weights")
        check_files({"checkpoint": recorded(file), "dataset": recorded(tmp_path)})
        check_files({"checkpoint": None, "dataset": None})

    @pytest.mark.parametrize(
        ("what", "error"), [("checkpoint", CheckpointMismatch), ("dataset", DatasetError)]
    )
    def test_a_changed_or_missing_file_does_not(
        self, tmp_path: Path, what: str, error: type[Exception]
    ) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"weights")
        files = {"checkpoint": None, "dataset": None, what: recorded(file)}
        file.write_bytes(b"other weights")
        with pytest.raises(error, match="changed after"):
            check_files(files)
        files[what] = recorded(file)
        os.utime(file, ns=(0, files[what]["mtime_ns"] + 1))
        with pytest.raises(error, match="changed after"):
            check_files(files)
        file.unlink()
        with pytest.raises(error, match="cannot be read"):
            check_files(files)

    def test_a_copy_that_kept_its_times_passes(self, tmp_path: Path) -> None:
        file, copy = tmp_path / "file", tmp_path / "copy"
        file.write_bytes(b"weights")
        record = recorded(file)
        shutil.copy2(file, copy)
        copy.replace(file)
        assert recorded(file)["inode"] != record["inode"]
        check_files({"checkpoint": record, "dataset": None})

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_a_model_folder_is_the_same_as_long_as_its_files_are(
        self, tmp_path: Path, name: str
    ) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        for file in ("config.json", "model.safetensors"):
            (folder / file).write_text("before")
        record = PathResolver([tmp_path]).resolve_checkpoint(str(folder), "/checkpoint").to_dict()
        files = {"checkpoint": record, "dataset": None}
        check_files(files)
        check_files({**files, "checkpoint": {**record, "size": 1}})  # as on another disk
        (folder / name).write_text("after!")
        with pytest.raises(CheckpointMismatch, match=f"{name} changed after"):
            check_files(files)
        (folder / name).unlink()
        with pytest.raises(CheckpointMismatch):
            check_files(files)

    def test_a_file_added_to_a_model_folder_is_a_change(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").touch()
        record = PathResolver([tmp_path]).resolve_checkpoint(str(tmp_path), "/checkpoint")
        (tmp_path / "model.safetensors").touch()  # which would be preferred
        with pytest.raises(CheckpointMismatch, match="changed after"):
            check_files({"checkpoint": record.to_dict(), "dataset": None})


def test_what_was_resolved_is_opened_not_what_was_asked_for() -> None:
    request = rows.request(
        checkpoint="/data/latest.safetensors", dataset={"path": "/data/set", "limit": 3}
    )
    files = {"checkpoint": {"path": "/data/v1.safetensors"}, "dataset": {"path": "/data/sets/1"}}
    arguments = session_arguments(request, files, None)
    assert arguments["checkpoint"] == "/data/v1.safetensors"
    assert arguments["dataset"] == request["dataset"] | {"path": "/data/sets/1"}
    builtin = session_arguments(rows.request(), {"checkpoint": None, "dataset": None}, None)
    assert (builtin["checkpoint"], builtin["dataset"]["path"]) == ("builtin:digits",) * 2


def test_from_then_on_the_jobs_own_weights_are_opened(tmp_path: Path) -> None:
    files = {"checkpoint": {"path": "/data/v1.pth"}, "dataset": {"path": "/data/sets/1"}}
    before = session_arguments(rows.request(), files, rows.INSPECTION)
    weights = {"sha256": "e" * 64, "source": "adapted"}
    after = on_own_weights(before, weights, ArtefactStore(tmp_path))
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"checkpoint", "weights_source", "files", "inspected"}
    assert after["checkpoint"] == str(tmp_path / f"{'e' * 64}.safetensors")
    assert after["weights_source"] == "adapted"
    # The user's file may go; the data set may not, and what is opened must be what was written.
    assert after["files"] == {"checkpoint": None, "dataset": files["dataset"]}
    assert after["inspected"] == {"checkpoint": "e" * 64, "dataset": "d" * 64, "training": None}


def test_the_inspection_settles_what_the_request_left_open() -> None:
    request = rows.request(score="late")
    files = {"checkpoint": None, "dataset": None}
    before = session_arguments(request, files, None)
    after = session_arguments(request, files, rows.INSPECTION)
    assert before["score"] == "late"
    assert before["inspected"] is None
    assert after["inspected"] == {"checkpoint": "c" * 64, "dataset": "d" * 64, "training": None}
    assert before["input"]["height"] is None
    assert after["score"] == rows.INSPECTION["score"]
    assert after["input"] == rows.INPUT
    # The device process finds the session it inspected with under the settled arguments.
    assert session_arguments(before, files, rows.INSPECTION) == after
