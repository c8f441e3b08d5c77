from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from sparsevit.data.digits import DigitCanvases
from sparsevit.errors import ConfigError, DatasetError
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.sparsity.recall import foreground_recall
from sparsevit.training.adapt import adapt
from sparsevit.training.dense import train
from sparsevit.training.finetune import finetune
from sparsevit.training.settings import TrainingSettings

SETTINGS = TrainingSettings(steps=6, batch=2, learning_rate=1e-3, warmup=2, seed=3)
DATA = DigitCanvases("train", 8, 112, packed=True)


def weights(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_the_same_seed_gives_the_same_weights(tiny_model) -> None:
    other = copy.deepcopy(tiny_model)
    train(tiny_model, DATA, SETTINGS)
    train(other, DATA, SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(weights(tiny_model), weights(other), strict=True))


def test_training_lowers_the_loss(tiny_model) -> None:
    losses: list[float] = []
    settings = TrainingSettings(steps=60, batch=4, learning_rate=3e-3, warmup=5)
    train(tiny_model, DATA, settings, progress=lambda done, total, loss: losses.append(loss))
    assert len(losses) == 60
    assert losses[-1] < 0.8 * losses[0]


def test_adaptation_draws_a_new_config_every_step(tiny_model, monkeypatch) -> None:
    seen: list[tuple[int, ...]] = []
    apply = type(tiny_model).set_sparsity
    monkeypatch.setattr(
        type(tiny_model),
        "set_sparsity",
        lambda self, config: (seen.append(config.genes), apply(self, config))[1],
    )
    adapt(tiny_model, DATA, SETTINGS, "l2")
    drawn = seen[:-1]
    assert len(drawn) == SETTINGS.steps
    assert len(set(drawn)) > 3
    assert all(genes[1] <= genes[2] for genes in drawn)
    assert seen[-1] == (0, 0, 0)
    assert tiny_model.adapted == "l2"


def test_windows_that_are_dropped_get_no_gradient(tiny_model) -> None:
    """Adaptation must train through the very windows that deployment computes, and no others."""
    backbone = tiny_model.backbone
    stage, pairs = backbone.layers[1], (1, 2)
    backbone.set_sparsity(SparsityConfig.from_genes((0, 8, 8), pairs, "l2"))
    x = torch.randn(1, 14, 14, 16, requires_grad=True)  # 4 windows: level 8 keeps one
    computed: list[torch.Tensor] = []
    for block in stage.blocks[:2]:
        block.register_forward_pre_hook(lambda _, args: computed.append(args[0]))
    score = backbone.stage_score((8, 8))
    state = stage.enter(x, score)
    stage.run_pair(state, 0, 8, score)
    out = stage.leave(state)
    assert [len(rows) for rows in computed] == [49, 49]

    upstream = torch.randn_like(out)
    out.backward(upstream)
    dropped = (out == x).all(-1)
    first = (x[..., None, :] == computed[0]).all(-1).any(-1)  # tokens of the first block's window
    assert first.sum() == 49
    assert not dropped[first].any()
    assert 196 - 2 * 49 <= dropped.sum() < 196 - 48
    assert torch.equal(x.grad[dropped], upstream[dropped])  # the identity path, nothing more
    assert not torch.isclose(x.grad, upstream).all(-1)[~dropped].any()
    assert stage.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_finetuning_keeps_the_config_and_unbinds_the_weights(tiny_model, tmp_path) -> None:
    tiny_model.weights_sha256 = "a" * 64
    config = SparsityConfig.from_genes((5, 3, 8), (1, 2))
    before = weights(tiny_model)
    finetune(tiny_model, DATA, SETTINGS, config)
    assert tiny_model.backbone.sparsity == config
    assert tiny_model.weights_sha256 is None
    assert any(not torch.equal(a, b) for a, b in zip(weights(tiny_model), before, strict=True))


def test_adaptation_unbinds_the_weights_too(tiny_model) -> None:
    tiny_model.weights_sha256 = "a" * 64
    adapt(tiny_model, DATA, SETTINGS, "l2")
    assert tiny_model.weights_sha256 is None


class Labelled:
    """Canvases whose labels are all one number."""

    augmented = True

    def __init__(self, label: int) -> None:
        self.label = label

    def __len__(self) -> int:
        return 8

    def sample(self, index: int):
        image, labels = DATA.sample(index)
        return image, np.full_like(labels, self.label)


def test_a_batch_that_counts_nowhere_has_no_loss(tiny_model) -> None:
    before = weights(tiny_model)
    losses: list[float] = []
    settings = TrainingSettings(steps=2, batch=2, learning_rate=1e-3, weight_decay=0.0)
    train(tiny_model, Labelled(255), settings, progress=lambda i, n, loss: losses.append(loss))
    assert losses == [0.0, 0.0]
    assert all(torch.equal(a, b) for a, b in zip(weights(tiny_model), before, strict=True))
    tiny_model.background_weight = 0.0
    loss = tiny_model.loss(torch.randn(1, 3, 112, 112), [np.zeros((28, 28), np.uint8)])
    assert loss.item() == 0.0


def test_pixels_to_ignore_change_nothing(tiny_model) -> None:
    images, labels = torch.randn(1, 3, 112, 112), np.full((28, 28), 255, np.uint8)
    labels[:14] = 3
    half = tiny_model.loss(images, [labels])
    logits = tiny_model(images)
    assert half.item() == pytest.approx(-logits.log_softmax(1)[:, 3, :14].mean().item(), rel=1e-5)


def test_training_that_diverges_stops_before_it_ruins_the_weights(tiny_model) -> None:
    settings = TrainingSettings(steps=9, batch=2, learning_rate=1e30, warmup=0)
    with pytest.raises(ConfigError, match="lower the learning rate"):
        train(tiny_model, DATA, settings)
    assert all(torch.isfinite(p).all() for p in tiny_model.parameters())


def test_recall_of_random_windows_is_the_share_kept(tiny_model) -> None:
    data = DigitCanvases("search", 24, 448)
    recall = foreground_recall(tiny_model, "random", data, range(24))
    assert recall[0] == pytest.approx(0.5, abs=0.15)
    assert foreground_recall(tiny_model, "random", data, range(24), level=0) == [1.0, 1.0]
    released, mean_abs = (
        foreground_recall(tiny_model, name, data, range(4)) for name in ("released", "mean_abs")
    )
    assert released == mean_abs


def test_executed_windows_need_a_forward(tiny_model) -> None:
    with pytest.raises(ConfigError, match="has not run"):
        _ = tiny_model.executed_windows
    with pytest.raises(ConfigError, match="images must be"):
        tiny_model(torch.zeros(3, 112, 112))


class Uneven:
    augmented = True

    def __len__(self) -> int:
        return 8

    def sample(self, index: int):
        return DigitCanvases("train", 8, 112 + 56 * (index % 2), packed=True).sample(index)


def test_images_of_different_sizes_need_a_size(tiny_model) -> None:
    with pytest.raises(DatasetError, match="give a height and a width"):
        train(tiny_model, Uneven(), SETTINGS)
    train(tiny_model, Uneven(), SETTINGS, size=(112, 112))
