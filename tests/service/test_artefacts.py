"""The artefact store."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from service.db.artefacts import WEIGHTS_SUFFIX, ArtefactStore


def test_what_is_put_is_got_by_its_digest(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "store")
    digest = store.put(b"picture")
    assert digest == hashlib.sha256(b"picture").hexdigest()
    assert store.put(b"picture") == digest
    assert store.get(digest) == b"picture"
    assert [path.name for path in (tmp_path / "store").iterdir()] == [digest]
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o644
    assert store.get("0" * 64) is None


def test_a_file_is_taken_up_under_its_digest_and_removed_again(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    for suffix in ("", WEIGHTS_SUFFIX):
        written = tmp_path / "work" / "file"
        written.parent.mkdir(exist_ok=True)
        written.write_bytes(b"weights")
        written.chmod(0o600)
        digest = hashlib.sha256(b"weights").hexdigest()
        store.adopt(written, digest, suffix)
        assert not written.exists()
        assert store.path(digest, suffix).name == digest + suffix
        assert store.path(digest, suffix).read_bytes() == b"weights"
        assert stat.S_IMODE(store.path(digest, suffix).stat().st_mode) == 0o644
        store.adopt(written, digest, suffix)  # again, by whoever could not note it down before
    for _ in range(2):
        store.remove(digest)
    assert store.get(digest) is None
    with pytest.raises(FileNotFoundError):
        store.adopt(written, digest)


@pytest.mark.parametrize("name", ["", "../x", "0" * 63, "0" * 63 + "\n", "G" * 64])
def test_only_digests_are_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="64 hex"):
        ArtefactStore(tmp_path).get(name)
