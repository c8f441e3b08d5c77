"""Our backbone in OpenMMLab's registry: a stand-in for it, since no OpenMMLab is installed here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from sparsevit.deploy import DeployConfig
from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.integrations.sparsify import find_backbone
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.checkpoints.save import backbone_to_tensors
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from tests.sparsevit.checkpoints.networks import randomise
from tests.sparsevit.integrations import models

NAME = "sparsevit.integrations.openmmlab"
SHAPE = {"embed_dims": 8, "depths": (2, 4), "num_heads": (1, 2), "out_indices": (0, 1)}
ARCHITECTURE = SwinConfig(embed_dim=8, depths=(2, 4), num_heads=(1, 2))


class Registry:
    """What mmengine's and mmcv's registries have in common, as their documentation states it."""

    def __init__(self) -> None:
        self.module_dict: dict[str, type[nn.Module]] = {}

    def register_module(
        self, name: str | None = None, force: bool = False, module: type[nn.Module] | None = None
    ) -> type[nn.Module]:
        name = name or module.__name__
        if name in self.module_dict and not force:
            raise KeyError(f"{name} is already registered")
        self.module_dict[name] = module
        return module

    def build(self, config: dict[str, Any]) -> nn.Module:
        arguments = dict(config)
        return self.module_dict[arguments.pop("type")](**arguments)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Each test imports the module anew, with what is installed then."""
    sys.modules.pop(NAME, None)
    yield
    for name in (NAME, "mmengine"):  # the second may come from a folder of the test
        sys.modules.pop(name, None)


def install(monkeypatch, path: str, attribute: str) -> Registry:
    """Makes `path`, and the packages above it, importable for one test."""
    parts = path.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        if name not in sys.modules:
            module = ModuleType(name)
            module.__path__ = []
            monkeypatch.setitem(sys.modules, name, module)
    registry = Registry()
    setattr(sys.modules[path], attribute, registry)
    return registry


def backbone(**other: Any):
    return importlib.import_module(NAME).SparseSwinTransformer(**(SHAPE | other))


def test_without_openmmlab_nothing_is_registered() -> None:
    module = importlib.import_module(NAME)
    assert module.REGISTERED == ()
    with torch.no_grad():
        shapes = [x.shape for x in module.SparseSwinTransformer(**SHAPE)(torch.zeros(1, 3, 64, 96))]
    assert shapes == [(1, 8, 16, 24), (1, 16, 8, 12)]


def test_it_is_built_from_the_registry_of_mmengine(monkeypatch) -> None:
    registry = install(monkeypatch, "mmengine.registry", "MODELS")
    older = install(monkeypatch, "mmseg.models.builder", "BACKBONES")
    module = importlib.import_module(NAME)
    assert module.REGISTERED == ("mmengine.registry.MODELS",)
    assert older.module_dict == {}
    chosen = {"out_indices": (1,), "sparsity": [[0.5], [0.2, 0.6]]}
    model = registry.build({"type": "SparseSwinTransformer", **SHAPE, **chosen})
    (features,) = model(torch.randn(2, 3, 112, 112))
    assert features.shape == (2, 16, 14, 14)
    assert features.is_contiguous()
    assert find_backbone(model).executed_windows == ((8, 8), (3, 3, 1, 1))
    assert module.register() == module.REGISTERED


def test_it_registers_in_every_older_library(monkeypatch) -> None:
    detectors = install(monkeypatch, "mmdet.models.builder", "BACKBONES")
    segmenters = install(monkeypatch, "mmseg.models.builder", "BACKBONES")
    module = importlib.import_module(NAME)
    assert module.REGISTERED == ("mmdet.models.builder.BACKBONES", "mmseg.models.builder.BACKBONES")
    for registry in (detectors, segmenters):
        assert registry.module_dict == {"SparseSwinTransformer": module.SparseSwinTransformer}


def test_a_newer_library_without_a_builder_is_passed_over(monkeypatch) -> None:
    install(monkeypatch, "mmdet.models", "unused")
    assert importlib.import_module(NAME).REGISTERED == ()


def test_an_openmmlab_that_is_itself_incomplete_is_not_hidden(monkeypatch, tmp_path: Path) -> None:
    package = tmp_path / "mmengine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "registry.py").write_text("import addict_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="addict_that_is_missing"):
        importlib.import_module(NAME)


@pytest.mark.parametrize("dialect", ["openmmlab", "microsoft", "huggingface"])
@pytest.mark.parametrize("argument", ["init_cfg", "pretrained"])
def test_init_weights_reads_a_checkpoint(tmp_path: Path, dialect: str, argument: str) -> None:
    source = randomise(SparseSwin(ARCHITECTURE, (1,)))
    path = str(tmp_path / "swin.pth")
    torch.save({"state_dict": backbone_to_tensors(source, dialect=dialect)}, path)
    where = {"init_cfg": {"type": "Pretrained", "checkpoint": path}, "pretrained": path}
    model = backbone(out_indices=(1,), **{argument: where[argument]}).eval()
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        before = model(images)[0]
        model.init_weights()
        assert not model(images)[0].equal(before)
        assert model(images)[0].equal(source(images)[0])
    assert model.backbone.load_report.path == path


def test_init_weights_without_a_checkpoint_changes_nothing() -> None:
    model = backbone()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.init_weights()
    assert all(tensor.equal(before[key]) for key, tensor in model.state_dict().items())


def test_another_window_is_resized_and_another_network_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "swin.pth")
    torch.save(randomise(SparseSwin(ARCHITECTURE)).state_dict(), path)
    model = backbone(pretrained=path, window_size=5)
    with pytest.warns(UserWarning, match="from windows of 7 to 5"):
        model.init_weights()
    with pytest.raises(ConfigError, match="another Swin than the config"):
        backbone(pretrained=path, depths=(2, 2)).init_weights()
    with pytest.raises(ConfigError, match="another Swin than the config"):
        backbone(pretrained=path, qkv_bias=False).init_weights()


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_the_state_dict_of_their_swin_is_translated(prefix: str) -> None:
    source = randomise(SparseSwin(ARCHITECTURE))
    theirs = backbone_to_tensors(source, dialect="openmmlab", prefix=prefix)
    # Buffers of theirs, which follow from the architecture.
    theirs[f"{prefix}stages.0.blocks.0.attn.w_msa.relative_position_index"] = torch.zeros(49, 49)
    model: nn.Module = backbone()
    detector = nn.ModuleDict({"backbone": model, "neck": nn.Linear(2, 2)})
    host = detector if prefix else model
    theirs |= {f"neck.{k}": t for k, t in detector["neck"].state_dict().items()} if prefix else {}
    given = set(theirs)
    host.load_state_dict(theirs)
    assert set(theirs) == given
    ours = model.backbone.state_dict()
    assert all(ours[key].equal(tensor) for key, tensor in source.state_dict().items())
    host.load_state_dict(host.state_dict())


def test_a_state_dict_that_does_not_fit_is_reported() -> None:
    theirs = backbone_to_tensors(SparseSwin(ARCHITECTURE), dialect="openmmlab")
    with pytest.raises(RuntimeError, match=r"Unexpected key.*backbone\.norm0"):
        backbone(out_indices=(1,)).load_state_dict(theirs)
    del theirs["stages.0.downsample.norm.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*backbone\.layers\.0\.downsample\.norm"):
        backbone().load_state_dict(theirs)
    theirs["stages.0.blocks.0.gamma"] = torch.ones(8)
    with pytest.raises(CheckpointMismatch, match="no place for"):
        backbone().load_state_dict(theirs)


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="both name a checkpoint"):
        backbone(pretrained="a.pth", init_cfg={"type": "Pretrained", "checkpoint": "a.pth"})
    for init in ({"type": "Xavier"}, {"type": "Pretrained", "checkpoint": "a", "prefix": "b"}):
        with pytest.raises(ConfigError, match="the Swin is found in the file by itself"):
            backbone(init_cfg=init)
    with pytest.raises(ConfigError, match="out_stages"):
        backbone(out_indices=(0, 2))
    with pytest.raises(ConfigError, match="another architecture"):
        backbone(sparsity=[[0.5]])
    with pytest.raises(TypeError, match="drop_path_rate"):
        backbone(drop_path_rate=0.2)


def test_sparsity_is_set_after_building_too() -> None:
    model = backbone().double().eval()
    pixels = models.images((112, 112))
    half = SparsityConfig(((0.5,), (0.5, 0.5)), "l2")
    with torch.no_grad():
        dense = model(pixels)
        model.set_sparsity(DeployConfig(half, None, {}))
        sparse = model(pixels)
    assert find_backbone(model).sparsity == half
    assert find_backbone(model).executed_windows == ((8, 8), (2,) * 4)
    assert all((a != b).any() for a, b in zip(dense, sparse, strict=True))
    sum(features.square().sum() for features in model(pixels)).backward()
    assert model.backbone.patch_embed.proj.weight.grad.abs().sum() > 0
