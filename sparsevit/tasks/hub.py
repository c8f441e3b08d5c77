"""Models of the Hugging Face hub by their id. Nothing here runs code of a repository."""

from __future__ import annotations

import re
from pathlib import Path

from sparsevit.errors import CheckpointError
from sparsevit.swin.checkpoints.reading import (
    PICKLE_SUFFIXES,
    SAFETENSORS_SUFFIX,
    TORCH_SUFFIXES,
)

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ["config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.*"]
PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.*"]


def is_hub_id(checkpoint: str | Path) -> bool:
    """Whether it reads like org/name, and nothing lies at that path."""
    text = str(checkpoint)
    suffixes = (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES, *PICKLE_SUFFIXES)
    like = ID.fullmatch(text) is not None and not text.endswith(suffixes)
    return isinstance(checkpoint, str) and like and not Path(text).exists()


def fetched(name: str) -> Path:
    """The folder of a hub's model in the local cache; safetensors only where it has them."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"there is no checkpoint {name} here. If it is a model of the Hugging Face hub: pip "
            "install 'sparsevit[huggingface]'."
        ) from error
    try:
        folder = Path(snapshot_download(name, allow_patterns=FILES))
        if not any(folder.glob("model*")):
            folder = Path(snapshot_download(name, allow_patterns=FILES + PICKLES))
    except Exception as error:  # the hub, the network and the cache fail in many ways
        raise CheckpointError(
            f"there is no checkpoint {name} here, and the Hugging Face hub does not give it "
            f"({type(error).__name__}): check the name and the network, or pass a local folder."
        ) from error
    return folder
