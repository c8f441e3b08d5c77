"""What sparsify left, saved and read again as a checkpoint: the same network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sparsevit
from sparsevit.errors import ConfigError
from tests.sparsevit.checkpoints.networks import transformers
from tests.sparsevit.integrations import models
from tests.sparsevit.twins import largest_difference

IMAGES = torch.randn(1, 3, *models.SMALL, dtype=torch.float64)


def test_a_transformers_folder_keeps_its_rule_for_small_maps(tmp_path: Path) -> None:
    host = sparsevit.sparsify(models.swin_model())
    ours = sparsevit.find_backbone(host)
    assert ours.config.small_map == "whole"
    host.save_pretrained(tmp_path)
    again = sparsevit.load_backbone(tmp_path).double()
    assert again.config == ours.config
    with torch.no_grad():
        assert largest_difference(again(IMAGES)[-1:], ours(IMAGES)[-1:]) <= 1e-6


def test_a_classifiers_state_dict_is_a_classifiers_still(tmp_path: Path) -> None:
    """Its tensors do not name the library any more; `whole` and `axis` agree on square images."""
    from torchvision.models.swin_transformer import SwinTransformer

    host = SwinTransformer([4, 4], 8, [2, 2], [1, 2], [7, 7], num_classes=3).eval().double()
    ours = sparsevit.find_backbone(sparsevit.sparsify(host))
    torch.save(host.state_dict(), tmp_path / "classifier.pth")
    again = sparsevit.load_backbone(tmp_path / "classifier.pth").double()
    images = torch.randn(1, 3, 56, 56, dtype=torch.float64)
    with torch.no_grad():
        assert largest_difference(again(images)[-1:], ours(images)[-1:]) <= 1e-6


def test_a_subclass_is_refused_since_its_own_code_would_be_lost() -> None:
    library = transformers()

    class Mine(library.SwinModel):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)[0] * 2

    model = Mine(models.swin_config())
    with pytest.raises(ConfigError, match="no Swin that can be swapped"):
        sparsevit.sparsify(model)
    assert type(model) is Mine
