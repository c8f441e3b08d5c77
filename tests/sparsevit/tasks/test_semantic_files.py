"""UperNet and Mask2Former of transformers: the same outputs and losses, files that it reads again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sparsevit
from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.mask2former import Mask2Former
from sparsevit.tasks.upernet import UperNet
from tests.sparsevit.checkpoints.networks import transformers
from tests.sparsevit.integrations import models

BUILD = {"upernet": models.upernet, "mask2former": models.mask2former}
NAMES = ("road", "car", "sky", "person", "sign")
SIZES = [(128, 192), (100, 76)]


@pytest.fixture(params=BUILD)
def theirs(request) -> nn.Module:
    """transformers' own model in double precision, of weights that fp32 holds."""
    network = BUILD[request.param]().float().double()
    network.config.id2label = dict(enumerate(NAMES))
    return network


@pytest.fixture
def folder(theirs: nn.Module, tmp_path: Path) -> Path:
    theirs.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def exact(network: nn.Module) -> nn.Module:
    """In eval mode; transformers' eager attention would take the softmax in fp32."""
    for module in network.eval().modules():
        if isinstance(module, transformers().SwinModel):
            module.set_attn_implementation("sdpa")
    return network


def found(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Outputs of ours or theirs, in the same form."""
    with torch.no_grad():
        outputs = model(images)
    if hasattr(outputs, "class_queries_logits"):
        return outputs.class_queries_logits, outputs.masks_queries_logits
    if hasattr(outputs, "logits"):
        return (outputs.logits,)
    if isinstance(outputs, Tensor):
        size = images.shape[-2:]
        return (F.interpolate(outputs, size=size, mode="bilinear", align_corners=False),)
    return tuple(outputs)


def assert_same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], relative: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= relative * other.abs().max()


@pytest.mark.parametrize("size", SIZES)
def test_outputs_are_transformers_own(theirs: nn.Module, folder: Path, size) -> None:
    ours = sparsevit.load_model(folder)
    assert ours.class_names == NAMES
    assert ours.task == "semantic_segmentation"
    images = models.images(size, batch=2)
    assert_same(found(ours.double(), images), found(theirs, images), 1e-9)


@pytest.mark.parametrize("family", BUILD)
def test_outputs_in_single_precision(family: str, tmp_path: Path) -> None:
    """With weights as they are before training; random ones, as above, magnify rounding."""
    torch.manual_seed(0)
    random = BUILD[family]().float()
    network = type(random)(random.config).float().eval()
    network.save_pretrained(tmp_path)
    images = models.images((128, 192)).float()
    assert_same(found(sparsevit.load_model(tmp_path), images), found(network, images), 1e-5)


def test_transformers_reads_what_is_written(
    theirs: nn.Module, folder: Path, tmp_path: Path
) -> None:
    """After a change of every weight, as training makes."""
    ours = sparsevit.load_model(folder)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.1)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_bytes((folder / "config.json").read_bytes())
    sparsevit.save_model(ours, tmp_path / "new" / "model.safetensors")
    again, loading = type(theirs).from_pretrained(
        tmp_path / "new", output_loading_info=True, dtype=torch.float64
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    images = models.images((128, 192))
    assert_same(found(ours.double(), images), found(exact(again), images), 1e-9)


def test_a_saved_file_alone_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    ours = sparsevit.load_model(folder)
    sparsevit.save_model(ours, tmp_path / "alone.safetensors")
    again = sparsevit.load_model(tmp_path / "alone.safetensors")
    assert type(again) is type(ours)
    assert (again.class_names, again.describe()) == (ours.class_names, ours.describe())
    assert again.state_dict().keys() == ours.state_dict().keys()
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    before, after = (
        load_file(folder / "model.safetensors"),
        load_file(tmp_path / "alone.safetensors"),
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor.float()) for key, tensor in before.items())


def test_a_sparsified_model_of_transformers_is_read_too(
    theirs: nn.Module, folder: Path, tmp_path: Path
) -> None:
    sparsevit.sparsify(theirs)
    theirs.save_pretrained(tmp_path / "sparse")
    one, other = sparsevit.load_model(tmp_path / "sparse"), sparsevit.load_model(folder)
    images = models.images((128, 192)).float()
    assert_same(found(one, images), found(other, images), 1e-6)


def test_windows_are_skipped(folder: Path) -> None:
    ours = sparsevit.load_model(folder)
    ours.set_sparsity(SparsityConfig.uniform(ours.backbone.config.pairs, 0.5, "l2"))
    found(ours, models.images((224, 224)).float())
    assert ours.executed_windows[0] == (32, 32)


def label_maps(size: tuple[int, int]) -> list[np.ndarray]:
    """Two maps of blocks, a part of each to be ignored."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, len(NAMES), (2, size[0] // 16, size[1] // 16), dtype=np.uint8)
    maps = small.repeat(16, 1).repeat(16, 2)
    maps[:, :8] = 255
    return list(maps)


def test_the_loss_of_upernet_is_transformers_own() -> None:
    network = models.upernet().float()
    ours = twin(network, UperNet, (0, 1, 2))
    images, labels = models.images((128, 192), batch=2).float(), label_maps((128, 192))
    network.train()
    ours.train()
    for module in network.modules():
        if "Drop" in type(module).__name__:
            module.eval()
    truth = torch.from_numpy(np.stack(labels)).long()
    expected = network(images, labels=truth).loss
    assert ours.loss(images, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_of_mask2former_is_transformers_own() -> None:
    network = models.mask2former().float()
    ours = twin(network, Mask2Former, (0, 1, 2, 3))
    images, labels = models.images((128, 192), batch=2).float(), label_maps((128, 192))
    classes = [torch.from_numpy(np.unique(x[x != 255])).long() for x in labels]
    masks = [
        torch.stack([torch.from_numpy(x == int(c)) for c in some]).float()
        for x, some in zip(labels, classes, strict=True)
    ]
    with torch.no_grad():
        torch.manual_seed(3)  # of the points at which masks are compared
        expected = network(images, mask_labels=masks, class_labels=classes).loss
        torch.manual_seed(3)
        loss = ours.loss(images, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def twin(network: nn.Module, kind: type, stages: tuple[int, ...]):
    """Ours with the weights of transformers' network."""
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        model = sparsevit.load_model(folder)
    assert isinstance(model, kind)
    assert model.backbone.out_stages == stages
    return model


@pytest.mark.parametrize("batch", [1, 2])
def test_training_lowers_the_loss(folder: Path, batch: int) -> None:
    """Of one image, too, where batch norm has a single value a channel."""
    ours = sparsevit.load_model(folder).train()
    images, labels = models.images((128, 192), batch).float(), label_maps((128, 192))[:batch]
    optimiser = torch.optim.AdamW(ours.parameters(), lr=1e-3)
    losses = []
    for step in range(6):
        torch.manual_seed(step)
        loss = ours.loss(images, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    head = {name for name, p in ours.named_parameters() if p.grad is None}
    assert not head


def test_labels_that_are_all_ignored_give_no_loss(folder: Path) -> None:
    ours = sparsevit.load_model(folder)
    nothing, some = np.full((128, 192), 255, np.uint8), label_maps((128, 192))[0]
    images = models.images((128, 192), 2).float()
    loss = ours.loss(images, [nothing, nothing])
    loss.backward()
    assert loss.item() == 0.0
    assert torch.isfinite(ours.loss(images, [nothing, some]))


def test_scores_of_mask2former_are_its_definition(tmp_path: Path) -> None:
    network = models.mask2former().float()
    network.save_pretrained(tmp_path)
    ours = sparsevit.load_model(tmp_path)
    images = models.images((128, 192), 2).float()
    with torch.no_grad():
        outputs = ours(images)
    classes, masks = outputs
    large = F.interpolate(masks, size=(50, 70), mode="bilinear", align_corners=False)
    for index in (0, 1):
        expected = torch.zeros(len(NAMES), 50, 70)
        for query in range(masks.shape[1]):
            share = classes[index, query].exp() / classes[index, query].exp().sum()
            mask = 1 / (1 + (-large[index, query]).exp())
            expected += share[: len(NAMES), None, None] * mask
        scores = ours.crop_scores(outputs, index, (50, 70))
        assert torch.allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mask2former_of_one_image_in_16_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    """grid_sample of strided maps of 16 bits reads beyond them: whatever lay in memory came out."""
    models.mask2former().float().save_pretrained(tmp_path)
    model = sparsevit.load_model(tmp_path)
    images = models.images((225, 301), batch=1).float()
    expected = found(model, images)
    model = model.to(dtype)
    for _ in range(5):
        junk = [torch.full((2**n,), float("nan"), dtype=dtype) for n in range(8, 18)]
        del junk  # what is allocated next lies here
        outputs = found(model, images.to(dtype))
        assert {output.dtype for output in outputs} == {dtype}
        for one, other in zip(outputs, expected, strict=True):
            # masks are of maps of up to 2,000 tokens: a bf16 has 8 bits
            assert (one.float() - other).abs().max() <= 0.1 * other.abs().max()
    assert model.float().head.decoder.level_embed.dtype == torch.float32


def test_a_file_without_its_config_is_told_what_is_missing(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointMismatch, match=r"need the folder with its config\.json"):
        sparsevit.load_model(folder)


def test_heads_that_do_not_fit_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    layer = next(
        k for k in tensors if k.endswith(("decode_head.classifier.bias", "predictor.bias"))
    )
    for value, message in ((torch.full_like(tensors[layer], torch.nan), "NaN"), (None, "missing")):
        changed = {k: v for k, v in (tensors | {layer: value}).items() if v is not None}
        save_file(changed, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointMismatch, match=message):
            sparsevit.load_model(folder)


def test_models_made_in_memory() -> None:
    shape = SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
    small = {"hidden_size": 16, "auxiliary_channels": 8, "pool_scales": [1, 2]}
    model = UperNet(SparseSwin(shape), NAMES, small)
    assert found(model.eval(), torch.randn(1, 3, 64, 64))[0].shape == (1, 5, 64, 64)
    with pytest.raises(ConfigError, match="no setting of this head"):
        UperNet(SparseSwin(shape), NAMES, {"layers": 3})
    with pytest.raises(ConfigError, match="4 feature maps"):
        Mask2Former(SparseSwin(shape, (2, 3)), NAMES)
    with pytest.raises(ConfigError, match="3 feature maps"):
        UperNet(SparseSwin(shape, (2, 3)), NAMES)
