"""The house's arrows: which room may import which, and what must load without torch."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITHOUT_TORCH = [
    "sparsevit",
    "sparsevit.errors",
    "sparsevit.metrics",
    "sparsevit.sparsity.config",
    "sparsevit.search.space",
    "sparsevit.search.latency_map",
    "sparsevit.search.evolution",
    "sparsevit.search.pareto",
    "sparsevit.search.racing",
    "sparsevit.search.generations",
    "sparsevit.cli",
    "service.main",
    "service.commands",
    "service.client",
    "service.embedded.stack",
    "worker.commands",
    "worker.app",
    "worker.coordinator",
]
# What a machine that only runs or measures models has: torch and numpy, and nothing of the service.
SERVICE_PACKAGES = ["pydantic", "fastapi", "celery", "sqlalchemy", "redis", "httpx", "alembic"]
PLAIN_TORCH = ["sparsevit.swin.model", "sparsevit.latency.meter", "sparsevit.search.run"]
HEAVY_PACKAGES = [*SERVICE_PACKAGES, "typer", "matplotlib", "sklearn", "skimage", "PIL"]


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_every_import_contract_holds() -> None:
    call = "lint_imports(no_cache=True, no_logo=True)"
    done = run_python(f"from importlinter.cli import lint_imports; raise SystemExit({call})")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_worker_is_forbidden_all_of_the_service_but_its_data() -> None:
    """import-linter lists what is forbidden: a new module must be listed, or be allowed here."""
    allowed = {f"service.{name}" for name in ("domain", "db", "queue", "settings", "home")}
    folders = [path.parent.name for path in (ROOT / "service").glob("*/__init__.py")]
    files = [path.stem for path in (ROOT / "service").glob("*.py") if path.stem != "__init__"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [
        contract
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["source_modules"] == ["worker"]
    ]
    forbidden = set(contract["forbidden_modules"])
    assert forbidden == {f"service.{name}" for name in [*folders, *files]} - allowed


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_this_module_loads_no_torch(module: str) -> None:
    done = run_python(f"import sys, {module}; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stdout + done.stderr


@pytest.mark.parametrize("module", PLAIN_TORCH)
def test_this_module_needs_torch_and_numpy_alone(module: str) -> None:
    hide = f"import sys; sys.modules.update(dict.fromkeys({HEAVY_PACKAGES!r}))"
    done = run_python(f"{hide}; import {module}")
    assert done.returncode == 0, done.stderr


def test_other_rooms_add_their_commands_by_entry_points() -> None:
    named = {entry.value for entry in entry_points(group="sparsevit.commands")}
    assert {"service.commands:register", "worker.commands:register"} <= named
