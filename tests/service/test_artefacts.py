"""The artefact store."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from service.db.artefacts import ArtefactStore


def test_what_is_put_is_got_by_its_digest(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "store")
    digest = store.put(b"picture")
    assert digest == hashlib.sha256(b"picture").hexdigest()
    assert store.put(b"picture") == digest
    assert store.get(digest) == b"picture"
    assert [path.name for path in (tmp_path / "store").iterdir()] == [digest]
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o644
    assert store.get("0" * 64) is None


@pytest.mark.parametrize("name", ["", "../x", "0" * 63, "0" * 63 + "\n", "G" * 64])
def test_only_digests_are_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="64 hex"):
        ArtefactStore(tmp_path).get(name)
