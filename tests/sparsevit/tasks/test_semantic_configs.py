"""Configs of transformers that describe no head of ours: each is named, at once."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import sparsevit
from sparsevit.errors import CheckpointMismatch
from tests.sparsevit.tasks.test_semantic_files import BUILD


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("upernet", {"hidden_size": 8}, "needs"),
        ("upernet", {"hidden_size": -3}, "hidden_size"),
        ("upernet", {"hidden_size": 10**9}, "hidden_size"),
        ("upernet", {"auxiliary_num_convs": 10**9}, "auxiliary_num_convs"),
        ("upernet", {"pool_scales": [1, 2, 3]}, "missing"),
        ("upernet", {"pool_scales": 5}, "pool_scales"),
        ("upernet", {"pool_scales": [0, 1]}, "pool_scales"),
        ("upernet", {"use_auxiliary_head": False}, "no place for"),
        ("upernet", {"auxiliary_loss_weight": float("nan")}, "auxiliary_loss_weight"),
        ("mask2former", {"encoder_layers": 10**9}, "encoder_layers"),
        ("mask2former", {"encoder_layers": 2}, "missing"),
        ("mask2former", {"hidden_dim": 64}, "neither trains nor stores"),
        ("mask2former", {"enforce_input_projection": True}, "neither trains nor stores"),
        ("mask2former", {"num_attention_heads": 5}, "cannot build"),
        ("mask2former", {"num_attention_heads": 0}, "num_attention_heads"),
        ("mask2former", {"activation_function": "os.system"}, "cannot build"),
        ("mask2former", {"common_stride": 0}, "common_stride"),
        ("mask2former", {"feature_strides": ["4"]}, "feature_strides"),
        ("mask2former", {"backbone_config": {"model_type": "resnet"}}, "no backbone_config"),
        ("mask2former", {"backbone_config": 5}, "backbone_config"),
        ("mask2former", {"id2label": {"0": "a"}}, "5 classes"),
        ("mask2former", {"model_type": "maskformer"}, "no head that is known"),
    ],
)
def test_configs_of_no_head_are_named_at_once(
    tmp_path: Path, family: str, change: dict, message: str
) -> None:
    BUILD[family]().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config_of(tmp_path) | change))
    start = time.process_time()
    with pytest.raises(CheckpointMismatch, match=message):
        sparsevit.load_model(tmp_path)
    assert time.process_time() - start < 5
