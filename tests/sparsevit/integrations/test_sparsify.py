"""A host model with our backbone inside computes what it computed before, until it is made sparse."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.integrations.sparsify import find_backbone, sparsify
from sparsevit.swin.model import SparseSwin
from tests.sparsevit.checkpoints.networks import transformers
from tests.sparsevit.integrations import models
from tests.sparsevit.integrations.models import EVEN, PADDED, SMALL

HOSTS = (
    models.swin_model,
    models.swin_backbone,
    models.classifier,
    models.upernet,
    models.maskformer,
    models.mask2former,
)
Make = Callable[[], nn.Module]

pytestmark = pytest.mark.filterwarnings("ignore:.*trains with drop rates:UserWarning")


@pytest.mark.parametrize("make", HOSTS)
@pytest.mark.parametrize("size", [EVEN, PADDED, SMALL])
def test_outputs_are_equal_at_ratio_zero(make: Make, size: tuple[int, int]) -> None:
    host, pixels = make(), models.images(size)
    expected = models.run(host, pixels)
    assert sparsify(host) is host
    models.assert_equal_outputs(models.run(host, pixels), expected)


@pytest.mark.parametrize("make", HOSTS)
def test_outputs_are_equal_in_single_precision(make: Make) -> None:
    host, pixels = make().float(), models.images(PADDED).float()
    expected = models.run(host, pixels)
    models.assert_equal_outputs(models.run(sparsify(host), pixels), expected, relative=5e-5)
    assert {p.dtype for p in host.parameters()} == {torch.float32}


@pytest.mark.parametrize("make", HOSTS)
def test_sparsity_is_applied_inside_the_host(make: Make) -> None:
    host, pixels = sparsify(make()), models.images(EVEN)
    dense = models.run(host, pixels)
    backbone = find_backbone(host)
    assert backbone.executed_windows[0] == (64, 64)
    backbone.set_sparsity(models.half(host))
    sparse = models.run(host, pixels)
    depths = backbone.config.depths
    assert backbone.executed_windows == tuple(
        (kept,) * depth for kept, depth in zip((32, 8, 2, 1)[: len(depths)], depths, strict=True)
    )
    assert all((sparse[name] != dense[name]).any() for name in dense)


@pytest.mark.parametrize("make", [models.swin_model, models.classifier, models.upernet])
def test_type_mode_and_frozen_weights_are_kept(make: Make) -> None:
    host = make().to(torch.bfloat16).train()
    frozen = [name for name, _ in host.named_parameters() if "encoder.layers.0" in name]
    for name in frozen:
        host.get_parameter(name).requires_grad_(False)
    backbone = find_backbone(sparsify(host))
    assert frozen
    assert all(module.training for module in host.modules())
    assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (not name.startswith("layers.0.")), name


def test_what_is_partly_frozen_stays_trainable() -> None:
    host = models.classifier()
    host.swin.encoder.layers[0].blocks[0].attention.q_proj.weight.requires_grad_(False)
    block = find_backbone(sparsify(host)).layers[0].blocks[0]
    assert block.attn.qkv.weight.requires_grad


@pytest.mark.parametrize("make", [models.upernet, models.classifier])
def test_gradients_equal_those_of_the_host_as_it_was(make: Make) -> None:
    host, pixels = make(), models.images(PADDED, batch=2)
    twin = sparsify(copy.deepcopy(host))
    for model in (host, twin):
        model(pixels).logits.square().mean().backward()
    theirs = dict(host.named_parameters())
    name = next(name for name in theirs if name.endswith("patch_embeddings.projection.weight"))
    expected = theirs[name].grad
    got = find_backbone(twin).patch_embed.proj.weight.grad
    assert (got - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_a_sparse_upernet_trains() -> None:
    host = sparsify(models.upernet()).train()
    find_backbone(host).set_sparsity(models.half(host))
    optimizer = torch.optim.AdamW(host.parameters(), lr=1e-3)
    labels = torch.randint(0, 5, (2, *EVEN), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(3):
        loss = host(models.images(EVEN, batch=2), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert all(p.grad is not None for p in find_backbone(host).parameters())
    assert find_backbone(host).executed_windows[0] == (32, 32)


def test_a_sparse_classifier_computes_its_loss() -> None:
    host = sparsify(models.classifier())
    labels = torch.tensor([3])
    output = host(models.images(EVEN), labels=labels)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))
    loss, logits = host(models.images(EVEN), labels=labels, return_dict=False)
    assert (loss, logits.shape) == (output.loss, (1, 5))


def test_gradient_checkpointing_reaches_the_backbone() -> None:
    host, pixels = models.classifier(), models.images(EVEN)
    host.gradient_checkpointing_enable()
    backbone = find_backbone(sparsify(host))
    assert host.is_gradient_checkpointing
    assert all(stage.activation_checkpointing for stage in backbone.layers)
    host.train()(pixels).logits.sum().backward()
    assert backbone.patch_embed.proj.weight.grad.abs().sum() > 0
    host.gradient_checkpointing_disable()
    assert not any(stage.activation_checkpointing for stage in backbone.layers)


def test_absolute_positions_come_along() -> None:
    host = models.classifier(use_absolute_embeddings=True, image_size=112)
    pixels = models.images((112, 112))
    expected = models.run(host, pixels)
    models.assert_equal_outputs(models.run(sparsify(host), pixels), expected)
    assert find_backbone(host).config.absolute_positions == (28, 28)


def test_a_model_in_anything_is_found_and_stays_where_it_was() -> None:
    inner = models.upernet()
    wrapper = nn.ModuleDict({"student": inner, "other": nn.Linear(2, 2)})
    sparsify(wrapper)
    assert wrapper["student"] is inner
    assert find_backbone(wrapper) is find_backbone(inner)


def test_sparsifying_twice_changes_nothing() -> None:
    host = sparsify(models.upernet())
    backbone = find_backbone(host)
    backbone.set_sparsity(models.half(host))
    assert find_backbone(sparsify(host)) is backbone
    assert backbone.sparsity == models.half(host)


def test_lost_drop_rates_are_told() -> None:
    with pytest.warns(UserWarning, match=r"drop rates of up to 0\.25.*stochastic depth"):
        sparsify(models.classifier(drop_path_rate=0.25))
    with pytest.warns(UserWarning, match=r"drop rates of up to 0\.5"):
        sparsify(models.classifier(drop_path_rate=0.0, attention_probs_dropout_prob=0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsify(models.classifier(drop_path_rate=0.0))


def quantised() -> nn.Module:
    model = models.classifier().float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have us use torchao
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True)
    return model


def swin_v2() -> nn.Module:
    shape = models.SHAPE | {"num_labels": 2}
    return transformers().Swinv2ForImageClassification(transformers().Swinv2Config(**shape))


def masked() -> nn.Module:
    return transformers().SwinModel(models.swin_config(), use_mask_token=True)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return transformers().SwinModel(models.swin_config())


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: nn.Linear(2, 2), ConfigError, "Linear holds no Swin that can be swapped"),
        (swin_v2, ConfigError, "Swin V2"),
        (lambda: models.classifier(hidden_act="relu"), ConfigError, "ReLU, which SparseSwin"),
        (lambda: models.classifier(layer_norm_eps=1e-6), ConfigError, "eps 1e-06"),
        (lambda: models.classifier(depths=[2, 3, 2]), CheckpointMismatch, "even number"),
        (lambda: models.swin_backbone(out_features=["stem", "stage2"]), ConfigError, "stem"),
        (lambda: nn.ModuleList([models.swin_model(), models.upernet()]), ConfigError, "2 Swins"),
        (quantised, ConfigError, "quantized.*quantise, or add adapters, after it"),
        (masked, ConfigError, "masks patches"),
        (on_meta, ConfigError, "meta device"),
        (
            lambda: transformers().SwinForMaskedImageModeling(models.swin_config()),
            ConfigError,
            "SwinForMaskedImageModeling is built around a SwinModel",
        ),
    ],
)
def test_what_cannot_be_swapped_is_refused_and_left_as_it_was(
    make: Make, error: type[Exception], match: str
) -> None:
    model = make()
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(error, match=match):
        sparsify(model)
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_find_backbone_wants_exactly_one() -> None:
    with pytest.raises(ConfigError, match=r"Linear holds 0 SparseSwins, not one\. Call"):
        find_backbone(nn.Linear(2, 2))
    pair = nn.ModuleList([sparsify(models.upernet()), sparsify(models.upernet())])
    with pytest.raises(ConfigError, match="ModuleList holds 2 SparseSwins"):
        find_backbone(pair)
    backbone = find_backbone(pair[0])
    assert isinstance(backbone, SparseSwin)
    assert find_backbone(backbone) is backbone
