"""Small networks and data for the library's tests."""

from __future__ import annotations

import pytest
import torch

from sparsevit.data.digits import CLASSES
from sparsevit.data.preprocess import Preprocess
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.semantic import SegmentationModel
from tests.oracles import import_torchvision

import_torchvision()  # before any test imports transformers


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads sum in another order than one: tests compare exact numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_model() -> SegmentationModel:
    """An untrained model of the digits task with two small stages."""
    torch.manual_seed(0)
    backbone = SparseSwin(SwinConfig(embed_dim=8, depths=(2, 4), num_heads=(1, 2)))
    return SegmentationModel(
        backbone,
        CLASSES,
        preprocess=Preprocess((0.45,) * 3, (0.25,) * 3),
        background=0,
        background_weight=0.3,
        metric_name="digit_miou",
    ).eval()
