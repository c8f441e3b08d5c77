"""What a stack leaves for the commands that talk to it: its addresses and its API key."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from service.domain.errors import SettingsError

ROOT_HOME = Path("/var/lib/sparsevit")  # root's own home is out of the database user's reach


def default_home() -> Path:
    """SPARSEVIT_HOME, else /var/lib/sparsevit for root and ~/.sparsevit for everybody else."""
    given = os.environ.get("SPARSEVIT_HOME")
    if given:
        return Path(given).expanduser().absolute()
    return ROOT_HOME if os.geteuid() == 0 else Path.home() / ".sparsevit"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where a running stack is reached. The URLs of the servers hold passwords."""

    url: str
    database_url: str
    redis_url: str

    def write(self, home: Path) -> None:
        """Put them below `home`, readable by its owner alone."""
        write_private(_addresses_file(home), json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, home: Path) -> Addresses | None:
        """Those of the stack that runs in `home`, or None where none does."""
        try:
            return cls(**json.loads(_addresses_file(home).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    @staticmethod
    def forget(home: Path) -> None:
        """The stack no longer runs."""
        _addresses_file(home).unlink(missing_ok=True)


def known_database_url() -> str:
    """DATABASE_URL, else that of the stack that runs here; for commands run beside the database."""
    given = os.environ.get("DATABASE_URL")
    if given:
        return given
    local = Addresses.read(default_home())
    if local is None:
        raise SettingsError(
            "no database is known: run this where `sparsevit up` runs, or set DATABASE_URL"
        )
    return local.database_url


def known_artifact_root() -> Path:
    """ARTIFACT_ROOT, else that of the stack that runs here."""
    given = os.environ.get("ARTIFACT_ROOT")
    return Path(given).expanduser().absolute() if given else default_home() / "artifacts"


def key_file(home: Path) -> Path:
    """The file of the API key made on the first start."""
    return home / "key"


def read_key(home: Path) -> str | None:
    """That key, or None where there is none yet."""
    try:
        return key_file(home).read_text().strip() or None
    except OSError:
        return None


def write_private(path: Path, text: str) -> None:
    """Write a file that at no moment anybody but its owner can read."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.rename(path)


def _addresses_file(home: Path) -> Path:
    return home / "run" / "addresses.json"
