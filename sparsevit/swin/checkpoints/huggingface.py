"""Hugging Face transformers: SwinModel and what is built on it, on disk and in memory.

transformers 5 renamed its modules but goes on writing the old names, so a saved folder and a
state dict of the same model differ. A SwinBackbone (UperNet, Mask2Former) keeps its stage norms
beside the network, and MaskFormer's own copy of it numbers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparsevit.errors import CheckpointMismatch
from sparsevit.swin.checkpoints.dialect import TABLE, Dialect, names

PATCH = ("embeddings.patch_embeddings.projection", "embeddings.norm")
BLOCK = "encoder.layers.{stage}.blocks.{block}"
MERGE = "encoder.layers.{stage}.downsample"
NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
POSITIONS = ("embeddings.position_embeddings",)
STAGE_NORM = "hidden_states_norms.stage{next}"

HUGGINGFACE = Dialect(
    name="huggingface",
    title="Hugging Face transformers",
    names=names(
        patch=PATCH,
        block=BLOCK,
        merge=MERGE,
        inside=NORMS
        | {
            "attn.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
            "attn.proj": "attention.output.dense",
            TABLE: "attention.self.relative_position_bias_table",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        },
    ),
    stage_norm=STAGE_NORM,
    final_norms=("layernorm",),
    positions=POSITIONS,
)

HUGGINGFACE_MASKFORMER = replace(
    HUGGINGFACE,
    name="huggingface-maskformer",
    title="Hugging Face MaskFormer",
    stage_norm="hidden_states_norms.{stage}",
    wrapper="model.",
)

HUGGINGFACE_MEMORY = Dialect(
    name="huggingface-memory",
    title="Hugging Face transformers 5 in memory",
    names=names(
        patch=PATCH,
        block=BLOCK,
        merge=MERGE,
        inside=NORMS
        | {
            "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
            "attn.proj": "attention.o_proj",
            TABLE: "attention.relative_position_bias.relative_position_bias_table",
        },
    ),
    stage_norm=STAGE_NORM,
    final_norms=("layernorm",),
    positions=POSITIONS,
    wrapper="swin.",
)

NAMES = tuple(dialect.name for dialect in (HUGGINGFACE, HUGGINGFACE_MASKFORMER, HUGGINGFACE_MEMORY))

# What a config may set and SparseSwin computes in one way only.
COMPUTED = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}


def check_config(document: Mapping[str, Any], name: str) -> tuple[int, int] | None:
    """CheckpointMismatch where config.json asks for what SparseSwin does not compute.

    Returns the (rows, columns) of patches of the image size it was made for, where it says so.
    """
    swin = document.get("backbone_config") or document
    if not isinstance(swin, Mapping):
        raise CheckpointMismatch(f"{name}: backbone_config in config.json is no object.")
    for field, computed in COMPUTED.items():
        found = swin.get(field, computed)
        if type(found) is not type(computed) or found != computed:
            raise CheckpointMismatch(
                f"{name}: config.json has {field} {found!r:.60}; SparseSwin computes {computed!r} "
                "only."
            )
    return _patch_grid(swin, name)


def _patch_grid(swin: Mapping[str, Any], name: str) -> tuple[int, int] | None:
    image, patch = (_pair(swin.get(field), field, name) for field in ("image_size", "patch_size"))
    return None if image is None or patch is None else (image[0] // patch[0], image[1] // patch[1])


def _pair(value: Any, field: str, name: str) -> tuple[int, int] | None:
    """A size as transformers write it: one whole number, or height and width."""
    if value is None:
        return None
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise CheckpointMismatch(
            f"{name}: config.json has {field} {value!r:.60}, which is no size."
        )
    return sides[0], sides[1]
