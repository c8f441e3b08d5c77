"""What must import without torch, and that every export is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sparsevit

WITHOUT_TORCH = (
    "sparsevit",
    "sparsevit.errors",
    "sparsevit.deploy",
    "sparsevit.metrics",
    "sparsevit.sparsity.config",
    "sparsevit.search.choices",
    "sparsevit.search.evolution",
    "sparsevit.search.feasible",
    "sparsevit.search.latency_map",
    "sparsevit.search.pareto",
    "sparsevit.search.space",
)
OPTIONAL = ("pydantic", "fastapi", "celery", "sqlalchemy", "redis", "psycopg", "httpx", "psutil")


@pytest.mark.parametrize("name", sparsevit.__all__)
def test_every_export_imports(name: str) -> None:
    assert getattr(sparsevit, name) is not None


def test_there_are_no_other_names() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sparsevit.nonsense


def test_the_search_imports_without_torch() -> None:
    code = f"""
import importlib, sys
for name in {WITHOUT_TORCH!r}:
    importlib.import_module(name)
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_latency_and_search_need_torch_and_numpy_alone() -> None:
    """What must run on a bare GPU machine: everything but commands, plots, images and the digits."""
    others = ("typer", "rich", "matplotlib", "PIL", "sklearn", "skimage", "scipy", "pynvml")
    code = f"""
import sys
for name in {others!r}:
    sys.modules[name] = None
import torch
import sparsevit, sparsevit.search.run, sparsevit.latency.bench, sparsevit.training.finetune
model = sparsevit.SparseSwin(sparsevit.SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2)))
model.set_sparsity(sparsevit.SparsityConfig(((0.5,), (0.8,))))
model(torch.zeros(1, 3, 64, 64))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_library_needs_no_package_of_the_service() -> None:
    code = f"""
import sys
for name in {OPTIONAL!r}:
    sys.modules[name] = None
import sparsevit.search.run, sparsevit.cli, sparsevit.training.finetune, sparsevit.latency.bench
"""
    subprocess.run([sys.executable, "-c", code], check=True)
