"""Paths that callers name: the contract's table, and what a record holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.domain.errors import ArtifactNotFound, PathNotAllowed, RequestError, UrlNotAllowed
from service.paths import MAX_ENTRIES, PathResolver


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed folder with a file, a folder, links and a FIFO; a secret beside it."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "model.safetensors").write_bytes(b"12345")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "data-too").mkdir()
    (tmp_path / "data-too" / "file").write_text("")
    (root / "inner").symlink_to(root / "model.safetensors")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "out-folder").symlink_to(tmp_path)
    (root / "out-missing").symlink_to(tmp_path / "missing")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "fifo")
    return root


def refused(root: Path, text: str) -> type[RequestError]:
    with pytest.raises(RequestError) as caught:
        PathResolver([root]).resolve(text, "/checkpoint")
    (finding,) = caught.value.errors
    assert finding.pointer == "/checkpoint"
    assert "secret" not in str(caught.value)
    return type(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "../../etc/passwd",
        "/etc/shadow",
        "/etc/no-such-file",
        "..\\..\\x",
        "%252e%252e%252f",
        "file:///etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "/",
        "",
        "~/model.safetensors",
        "model.safetensors",
        "microsoft/swin-tiny-patch4-window7-224",
        "builtin:other",
        "/" + "x/" * 2500,
        "/data\0",
        "{root}/../secret",
        "{root}/images/../../secret",
        "{root}/images/../model.safetensors",
        "{root}-too/file",
        "{root}/%2e%2e/secret/../../etc/passwd",
        "{root}/out",
        "{root}/out-folder/secret",
        "{root}/out-folder/missing",
        "{root}/out-missing",
        "{root}/fifo",
        "{root}/loop",
    ],
)
def test_paths_outside_are_refused(root: Path, text: str) -> None:
    assert refused(root, text.replace("{root}", str(root))) is PathNotAllowed


@pytest.mark.parametrize(
    "text",
    ["http://169.254.169.254", "http://localhost:6379", "s3://x", "HTTPS://x", "gopher://x:1"],
)
def test_urls_are_refused(root: Path, text: str) -> None:
    assert refused(root, text) is UrlNotAllowed


@pytest.mark.parametrize(
    "text", ["{root}/missing", "{root}/images/a/b", "{root}/%2e%2e", "{root}/" + "x" * 300]
)
def test_missing_files_under_a_root_are_named_so(root: Path, text: str) -> None:
    assert refused(root, text.replace("{root}", str(root))) is ArtifactNotFound


def test_a_file_is_recorded_with_all_that_would_change(root: Path) -> None:
    record = PathResolver([root]).resolve(str(root / "inner"), "/checkpoint")
    found = os.stat(root / "model.safetensors")
    assert record.to_dict() == {
        "path": os.path.realpath(root / "model.safetensors"),
        "size": 5,
        "mtime_ns": found.st_mtime_ns,
        "inode": found.st_ino,
    }


def test_a_folder_may_be_a_model_or_a_data_set(root: Path) -> None:
    folder = str(root / "images")
    assert PathResolver([root]).resolve(folder, "/checkpoint").path == os.path.realpath(folder)


def test_a_root_behind_a_symlink_works_by_both_names(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    for named in (link, root):
        record = PathResolver([link]).resolve(str(named / "model.safetensors"), "/x")
        assert record.path == os.path.realpath(root / "model.safetensors")


def test_without_roots_nothing_is_allowed(root: Path) -> None:
    with pytest.raises(PathNotAllowed):
        PathResolver([]).resolve(str(root / "model.safetensors"), "/checkpoint")


@pytest.fixture
def model(root: Path) -> Path:
    """A model folder of Hugging Face's, its weights a link as in that library's cache."""
    model = root / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "notes.txt").write_text("never read")
    (model / "model.safetensors").symlink_to("../model.safetensors")
    return model


def test_a_model_folder_is_recorded_with_what_is_read_of_it(root: Path, model: Path) -> None:
    record = PathResolver([root]).resolve_checkpoint(str(model), "/checkpoint")
    weights, config = os.stat(root / "model.safetensors"), os.stat(model / "config.json")
    assert record.to_dict()["files"] == {
        "config.json": {"size": 2, "mtime_ns": config.st_mtime_ns},
        "model.safetensors": {
            "size": 5,
            "mtime_ns": weights.st_mtime_ns,
            "path": os.path.realpath(root / "model.safetensors"),
        },
    }
    file = PathResolver([root]).resolve_checkpoint(str(root / "model.safetensors"), "/checkpoint")
    assert "files" not in file.to_dict()


def test_a_model_folder_must_hold_plain_files_under_the_roots(
    root: Path, model: Path, tmp_path: Path
) -> None:
    resolver = PathResolver([root])
    file = model / "pytorch_model.bin"

    def refusal() -> RequestError:
        with pytest.raises(RequestError) as caught:
            resolver.resolve_checkpoint(str(model), "/checkpoint")
        assert [finding.pointer for finding in caught.value.errors] == ["/checkpoint"]
        file.unlink()
        return caught.value

    file.symlink_to(tmp_path / "secret")
    assert type(refusal()) is PathNotAllowed
    file.symlink_to(tmp_path / "missing")
    assert type(refusal()) is PathNotAllowed
    os.mkfifo(file)
    assert type(refusal()) is PathNotAllowed
    file.symlink_to(root / "missing")
    assert type(refusal()) is ArtifactNotFound
    resolver.resolve_checkpoint(str(model), "/checkpoint")


def test_a_folder_of_very_many_files_is_no_model(root: Path) -> None:
    for number in range(MAX_ENTRIES):
        (root / "images" / f"{number}.jpg").touch()
    resolver = PathResolver([root])
    assert resolver.resolve_checkpoint(str(root / "images"), "/checkpoint").files == {}
    (root / "images" / "one-more.jpg").touch()
    with pytest.raises(PathNotAllowed, match="name the weights file itself"):
        resolver.resolve_checkpoint(str(root / "images"), "/checkpoint")
    resolver.resolve(str(root / "images"), "/dataset/path")  # a data set has as many as it likes
