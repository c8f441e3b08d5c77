"""No library of another's is imported before one of its models is at hand."""

from __future__ import annotations

import subprocess
import sys

WITHOUT = """
import sys
for name in ("transformers", "timm", "torchvision", "mmengine", "mmdet", "mmseg", "mmcls"):
    sys.modules[name] = None  # importing it raises ModuleNotFoundError
"""


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT + code], check=True)


def test_without_the_libraries_all_else_works() -> None:
    python("""
import torch
import sparsevit
import sparsevit.integrations.openmmlab as openmmlab
assert openmmlab.REGISTERED == ()
assert callable(sparsevit.from_timm) and callable(sparsevit.from_torchvision)
swin = sparsevit.SparseSwin(sparsevit.SwinConfig(embed_dim=8, depths=(2,), num_heads=(1,)))
model = torch.nn.Sequential(swin)
assert sparsevit.find_backbone(sparsevit.sparsify(model)) is swin
for convert in (sparsevit.sparsify, sparsevit.from_timm, sparsevit.from_torchvision):
    try:
        convert(torch.nn.Linear(2, 2))
    except sparsevit.errors.ConfigError:
        continue
    sys.exit(f"{convert} took a linear layer")
""")


def test_transformers_is_named_where_it_is_missing() -> None:
    python("""
import sparsevit
try:
    sparsevit.SparseSwinBackbone
except ModuleNotFoundError as error:
    sys.exit(None if "transformers" in str(error) else str(error))
sys.exit("transformers was imported")
""")
