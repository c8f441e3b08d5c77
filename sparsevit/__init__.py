"""SparseViT: latency-aware search for sparse Swin Transformers.

    model = sparsevit.load_model("digits-supernet.safetensors")
    model.set_sparsity(sparsevit.load_config("best.json"))
    logits = model(images)

Names load on first use, so that the parts that need only numpy import without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "SparsityConfig": "sparsevit.sparsity.config",
    "SparseSwin": "sparsevit.swin.model",
    "SparseSwinBackbone": "sparsevit.integrations.transformers",
    "SparseSwinConfig": "sparsevit.integrations.transformers",
    "SwinConfig": "sparsevit.swin.config",
    "adapt": "sparsevit.training.adapt",
    "apply_mode": "sparsevit.latency.modes",
    "find_backbone": "sparsevit.integrations.sparsify",
    "finetune": "sparsevit.training.finetune",
    "from_timm": "sparsevit.integrations.timm",
    "from_torchvision": "sparsevit.integrations.torchvision",
    "keep_memory": "sparsevit.latency.allocator",
    "load_backbone": "sparsevit.swin.checkpoints.load",
    "load_config": "sparsevit.deploy",
    "load_model": "sparsevit.tasks.files",
    "register_score": "sparsevit.sparsity.score",
    "run_search": "sparsevit.search.run",
    "save_backbone": "sparsevit.swin.checkpoints.save",
    "save_model": "sparsevit.tasks.files",
    "sparsify": "sparsevit.integrations.sparsify",
    "train": "sparsevit.training.dense",
    "TrainingSettings": "sparsevit.training.settings",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'sparsevit' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
