"""The account the embedded servers run as, and folders that account can reach.

Postgres refuses to run as root, so root starts both servers as `nobody`. A clone or a virtual
environment under root's own 0700 home is then out of reach. No permission of a folder that is
not ours is ever changed: what is out of reach is put in a folder of ours instead.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from service.embedded.errors import EmbeddedError
from service.embedded.signals import undisturbed

UNPRIVILEGED = "nobody"
TEMPORARY_PARENT = Path("/var/tmp")  # unlike /tmp it is never a small memory-backed file system
TEMPORARY_PREFIX = "sparsevit-"
LAUNCHER = Path(__file__).with_name("launch.py")


@dataclass(frozen=True, kw_only=True)
class ServerAccount:
    """Who runs the servers; uid and gid are -1 where it is simply the caller."""

    uid: int = -1
    gid: int = -1

    @classmethod
    def current(cls) -> ServerAccount:
        """The caller, or `nobody` where the caller is root."""
        if os.geteuid() != 0:
            return cls()
        try:
            entry = pwd.getpwnam(UNPRIVILEGED)
        except KeyError:
            raise EmbeddedError(
                f"this machine has no user {UNPRIVILEGED!r}, and Postgres refuses to run as root: "
                "run this command as an ordinary user, or set DATABASE_URL and REDIS_URL"
            ) from None
        return cls(uid=entry.pw_uid, gid=entry.pw_gid)

    def own(self, path: Path, mode: int) -> None:
        """Give one of our own files or folders to the account, with these permissions."""
        if self.uid >= 0:
            os.chown(path, self.uid, self.gid)
        path.chmod(mode)

    def command(self, argv: list[str], death_signal: int) -> list[str]:
        """`argv` run as this account, with `death_signal` sent to it when we die (Linux)."""
        guard = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(death_signal)]
        return [*guard, str(self.uid), str(self.gid), *argv]

    def can_run(self, program: Path) -> bool:
        """Whether the account can execute `program`: asked by doing it, so ACLs count too."""
        argv = self.command([str(program), "--version"], death_signal=9)
        return subprocess.run(argv, capture_output=True, timeout=30).returncode == 0

    def can_reach(self, folder: Path) -> bool:
        """Whether the account may pass through every parent of `folder` and `folder` itself."""
        if self.uid < 0:
            return True
        existing = folder.absolute()
        while not existing.exists():
            existing = existing.parent
        existing = existing.resolve()
        return all(self._may_pass(path) for path in (existing, *existing.parents))

    def require_reach(self, folder: Path) -> None:
        """Raise, saying what to do, where the account cannot reach `folder`."""
        if not self.can_reach(folder):
            raise EmbeddedError(
                f"run by root, the database runs as another user, who cannot reach {folder}: set "
                "SPARSEVIT_HOME (or --home) to a folder every user may pass through, such as "
                "/var/lib/sparsevit, or run as an ordinary user, or set DATABASE_URL and REDIS_URL"
            )

    def _may_pass(self, folder: Path) -> bool:
        status = folder.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def make_folder(path: Path) -> Path:
    """Create `path` and its missing parents, private; made by root, the servers may pass."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return path


@contextmanager
def temporary_home(wanted: Path) -> Iterator[Path]:
    """An empty folder for a temporary stack, removed afterwards with all it holds.

    It is `wanted`, or, where the servers' account cannot reach that, one folder under /var/tmp.
    What a killed run left in either place is removed first.
    """
    _remove_leftovers()
    if ServerAccount.current().can_reach(wanted):
        with ExitStack() as stack:
            make_folder(wanted)
            _refuse_foreign(wanted)
            stack.enter_context(folder_lock(wanted))
            _empty(wanted)
            stack.callback(_remove, wanted)
            yield wanted
        return
    folder = Path(tempfile.mkdtemp(dir=TEMPORARY_PARENT, prefix=TEMPORARY_PREFIX))
    with folder_lock(folder):
        try:
            folder.chmod(0o711)
            yield folder
        finally:
            _remove(folder)


def _remove(folder: Path) -> None:
    with undisturbed():
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; the kernel lets go of it however we end."""
    with _lock_file(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedError(
                f"{folder} is in use by another running process: stop it first, "
                "or name another folder (--home or SPARSEVIT_HOME)"
            ) from None
        yield


def _lock_file(folder: Path) -> IO[str]:
    try:
        return (folder / "lock").open("w")
    except OSError as error:
        raise EmbeddedError(
            f"cannot write in {folder} ({error.strerror}): name another folder "
            "(--home or SPARSEVIT_HOME)"
        ) from None


def _refuse_foreign(folder: Path) -> None:
    if any(folder.iterdir()) and not (folder / "lock").is_file():
        raise EmbeddedError(
            f"{folder} holds files that are not from a temporary stack: move them away first"
        )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == "lock":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _remove_leftovers() -> None:
    """Remove the folders under /var/tmp whose runs were killed: ours, and no longer locked."""
    for folder in TEMPORARY_PARENT.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(EmbeddedError, FileNotFoundError):  # another run may remove it, too
            status = folder.lstat()
            ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
            # A folder without its lock file was made this instant by a run that starts beside us.
            if not ours or not (folder / "lock").is_file():
                continue
            with folder_lock(folder):
                shutil.rmtree(folder, ignore_errors=True)
