"""What transformers really writes and holds, against the models it came from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sparsevit.errors import CheckpointMismatch
from sparsevit.swin.checkpoints.load import backbone_from_tensors, load_backbone
from sparsevit.swin.checkpoints.save import backbone_to_tensors, save_backbone
from tests.sparsevit.checkpoints.networks import (
    LARGE,
    ONE_ROW,
    ONE_WINDOW,
    assert_equal_features,
    hugging_features,
    pictures,
    randomise,
    swin_backbone,
    swin_config,
    transformers,
)

SMALL = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_attention_heads": 2}
LAYERS = {"encoder_feedforward_dim": 32, "dim_feedforward": 32, "num_queries": 4}
FOUR = {"depths": [2, 2, 2, 2], "num_heads": [1, 2, 2, 2]}
FOUR["out_features"] = [f"stage{i}" for i in range(1, 5)]


def mask2former() -> nn.Module:
    hf = transformers()
    config = hf.Mask2FormerConfig(
        backbone_config=swin_config(**FOUR), encoder_layers=1, decoder_layers=2, **SMALL, **LAYERS
    )
    return hf.Mask2FormerForUniversalSegmentation(config)


def maskformer() -> nn.Module:
    hf = transformers()
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    decoder = hf.DetrConfig(d_model=32, encoder_layers=1, decoder_layers=1, **heads)
    config = hf.MaskFormerConfig(
        backbone_config=swin_config(**FOUR),
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
    )
    return hf.MaskFormerForInstanceSegmentation(config)


def upernet() -> nn.Module:
    hf = transformers()
    config = hf.UperNetConfig(
        backbone_config=swin_config(**FOUR),
        hidden_size=16,
        auxiliary_channels=8,
        auxiliary_in_channels=32,
    )
    return hf.UperNetForSemanticSegmentation(config)


SEGMENTERS: list[tuple[Callable[[], nn.Module], str, str, str]] = [
    (mask2former, "model.pixel_level_module.encoder", "huggingface", ""),
    (maskformer, "model.pixel_level_module.encoder", "huggingface-maskformer", "model."),
    (upernet, "backbone", "huggingface", ""),
]


@pytest.mark.parametrize("size", [LARGE, ONE_WINDOW, ONE_ROW, (75, 101)])
def test_a_backbones_folder(tmp_path: Path, size: tuple[int, int]) -> None:
    backbone = swin_backbone()
    backbone.save_pretrained(tmp_path)
    model = load_backbone(tmp_path)
    assert model.load_report.dialect == "huggingface"
    assert model.config.small_map == "shift"
    images = pictures(size)
    assert_equal_features(model, images, hugging_features(backbone, images))


@pytest.mark.parametrize("kind", ["SwinModel", "SwinForImageClassification"])
@pytest.mark.parametrize("size", [LARGE, ONE_WINDOW, ONE_ROW])
def test_a_classifiers_folder(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    classifier = randomise(getattr(transformers(), kind)(swin_config()))
    classifier.save_pretrained(tmp_path)
    model = load_backbone(tmp_path)
    assert model.config.small_map == "whole"
    images = pictures(size)
    assert_equal_features(model, images, [last_state(classifier, images)])


def last_state(classifier: nn.Module, images: Tensor) -> Tensor:
    """The last feature map, [B, C, H, W], of a SwinModel or what wraps one."""
    network = getattr(classifier, "swin", classifier).double()
    network.set_attn_implementation("sdpa")
    with torch.no_grad():
        state_BLC = network(images).last_hidden_state
    height, width = (side // 8 for side in images.shape[-2:])
    return state_BLC.transpose(1, 2).unflatten(2, (height, width))


@pytest.mark.parametrize(("build", "encoder", "dialect", "wrapper"), SEGMENTERS)
def test_a_segmenters_folder(tmp_path: Path, build, encoder, dialect, wrapper) -> None:
    segmenter = randomise(build())
    segmenter.save_pretrained(tmp_path)
    model = load_backbone(tmp_path)
    report = model.load_report
    assert (report.dialect, report.prefix) == (dialect, f"{encoder}.{wrapper}")
    assert len(report.left["another part of a larger model"]) > 20
    images = pictures((96, 120))
    expected = hugging_features(segmenter.get_submodule(encoder), images)
    assert len(expected) == 4
    assert_equal_features(model, images, expected)


@pytest.mark.parametrize(("build", "encoder"), [(row[0], row[1]) for row in SEGMENTERS])
def test_a_segmenter_in_memory(build, encoder: str) -> None:
    segmenter = randomise(build())
    model = backbone_from_tensors(segmenter.state_dict(), "the segmenter")
    images = pictures((64, 96))
    assert_equal_features(model, images, hugging_features(segmenter.get_submodule(encoder), images))


@pytest.mark.parametrize("kind", ["SwinModel", "SwinForImageClassification"])
def test_a_classifiers_state_dict(tmp_path: Path, kind: str) -> None:
    """Saved by the user, it has the names of transformers 5 in memory."""
    classifier = randomise(getattr(transformers(), kind)(swin_config()))
    torch.save(classifier.state_dict(), tmp_path / "swin.pth")
    model = load_backbone(tmp_path / "swin.pth")
    assert model.load_report.dialect == "huggingface-memory"
    assert model.config.small_map == "whole"
    images = pictures(ONE_ROW)
    assert_equal_features(model, images, [last_state(classifier, images)])


def test_pre_training_leaves_its_mask_token(tmp_path: Path) -> None:
    trained = randomise(transformers().SwinForMaskedImageModeling(swin_config(encoder_stride=8)))
    trained.save_pretrained(tmp_path)
    model = load_backbone(tmp_path)
    left = model.load_report.left
    assert left["only used in pre-training"] == ("swin.embeddings.mask_token",)
    assert left["another part of a larger model"] == ("decoder.0.bias", "decoder.0.weight")
    assert model.config.small_map == "whole"


@pytest.mark.parametrize("size", [ONE_WINDOW, ONE_ROW])
def test_absolute_positions(tmp_path: Path, size: tuple[int, int]) -> None:
    """A list of them fills the image size that config.json states."""
    backbone = swin_backbone(use_absolute_embeddings=True, image_size=list(size))
    backbone.save_pretrained(tmp_path)
    model = load_backbone(tmp_path)
    assert model.config.absolute_positions == (size[0] // 4, size[1] // 4)
    images = pictures(size)
    assert_equal_features(model, images, hugging_features(backbone, images))


def test_positions_of_no_square_need_a_config(tmp_path: Path) -> None:
    state = swin_backbone(use_absolute_embeddings=True, image_size=[56, 112]).state_dict()
    with pytest.raises(CheckpointMismatch, match=r"392 absolute positions.*no square grid"):
        backbone_from_tensors(state, "it")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_act", "relu", "hidden_act 'relu'"),
        ("hidden_act", ["gelu"], "hidden_act"),
        ("layer_norm_eps", 1e-6, "layer_norm_eps"),
        ("layer_norm_eps", "1e-5", "layer_norm_eps"),
        ("layer_norm_eps", True, "layer_norm_eps"),
        ("image_size", "large", "image_size"),
        ("image_size", [56, -56], "image_size"),
        ("patch_size", 0, "patch_size"),
        ("backbone_config", [1], "backbone_config"),
        ("backbone_config", {"hidden_act": "silu"}, "hidden_act 'silu'"),
    ],
)
def test_a_config_that_asks_for_another_network(tmp_path: Path, field, value, message) -> None:
    swin_backbone().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(CheckpointMismatch, match=message):
        load_backbone(tmp_path)


def test_a_folder_without_a_config_is_enough(tmp_path: Path) -> None:
    swin_backbone().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    assert load_backbone(tmp_path).config.depths == (2, 4)


def test_query_without_key_is_named() -> None:
    state = swin_backbone().state_dict()
    key = "swin.encoder.layers.0.blocks.1.attention.k_proj.weight"
    with pytest.raises(CheckpointMismatch, match="no place for"):
        backbone_from_tensors({k: v for k, v in state.items() if k != key}, "it")
    with pytest.raises(CheckpointMismatch, match="differ in shape"):
        backbone_from_tensors(state | {key: torch.ones(4, 8)}, "it")


def test_a_backbone_written_back_loads_into_transformers(tmp_path: Path) -> None:
    model = load_backbone(_saved(swin_backbone(), tmp_path / "theirs"))
    randomise(model, seed=5)
    swin_config().save_pretrained(tmp_path / "ours")
    save_backbone(model, tmp_path / "ours" / "model.safetensors", dialect="huggingface")
    again, info = transformers().SwinBackbone.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert all("swin.layernorm" in key for key in info["missing_keys"])
    images = pictures(ONE_ROW)
    assert_equal_features(model, images, hugging_features(again.eval(), images))


def test_a_classifier_written_back_loads_into_transformers(tmp_path: Path) -> None:
    classifier = randomise(transformers().SwinForImageClassification(swin_config()))
    model = load_backbone(_saved(classifier, tmp_path / "theirs"))
    path = tmp_path / "theirs" / "model.safetensors"
    before = load_file(path)
    written = backbone_to_tensors(model, dialect="huggingface", prefix="swin.")
    assert written.keys() == {key for key in before if not key.startswith("classifier")}
    assert all(torch.equal(tensor, before[key]) for key, tensor in written.items())


@pytest.mark.parametrize(("build", "encoder", "dialect", "wrapper"), SEGMENTERS)
def test_a_segmenters_backbone_is_written_back(
    tmp_path: Path, build, encoder, dialect, wrapper
) -> None:
    folder = _saved(randomise(build()), tmp_path)
    model = load_backbone(folder)
    before = load_file(folder / "model.safetensors")
    prefix = model.load_report.prefix
    written = backbone_to_tensors(model, dialect=dialect, prefix=prefix)
    assert len(written) == model.load_report.loaded
    assert all(torch.equal(tensor, before[key]) for key, tensor in written.items())


def test_the_names_in_memory_are_written_back() -> None:
    backbone = swin_backbone()
    model = backbone_from_tensors(backbone.state_dict(), "it")
    written = backbone_to_tensors(model, dialect="huggingface-memory", prefix="swin.")
    missing, unexpected = backbone.load_state_dict(written, strict=False)
    assert not unexpected
    assert missing == ["swin.layernorm.weight", "swin.layernorm.bias"]


def _saved(network: nn.Module, folder: Path) -> Path:
    network.save_pretrained(folder)
    return folder
