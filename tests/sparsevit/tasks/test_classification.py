"""The classifier itself: what it computes, counts, learns and stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sparsevit
from sparsevit import metrics
from sparsevit.data.preprocess import Preprocess
from sparsevit.errors import ConfigError
from sparsevit.evaluate import evaluate
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.classification import ClassificationModel

SHAPE = SwinConfig(embed_dim=8, depths=(2, 2), num_heads=(1, 2))
NAMES = tuple("abcdefgh")
PREPROCESS = Preprocess(resize=(56, 56))


class Shades:
    """Images of one shade and noise; the class is the shade."""

    def __len__(self) -> int:
        return 2 * len(NAMES)

    def sample(self, index: int) -> tuple[np.ndarray, int]:
        generator = np.random.default_rng(index)
        label = index % len(NAMES)
        noise = generator.integers(0, 20, (64, 80, 3))
        return (noise + 28 * label).astype(np.uint8), label

    def files(self, index: int) -> tuple:
        return ()

    def check(self, progress=None, indices=None) -> None:
        pass


def model(**other) -> ClassificationModel:
    torch.manual_seed(0)
    backbone = SparseSwin(SHAPE, out_stages=(1,))
    return ClassificationModel(backbone, NAMES, preprocess=PREPROCESS, **other).eval()


def logits(classifier: ClassificationModel) -> tuple[torch.Tensor, list[int]]:
    images, targets = zip(*map(Shades().sample, range(len(Shades()))), strict=True)
    with torch.no_grad():
        return classifier(classifier.preprocess(images)), list(targets)


def test_outputs_are_a_linear_layer_of_the_mean() -> None:
    classifier = model()
    found, _ = logits(classifier)
    images, _ = zip(*map(Shades().sample, range(len(Shades()))), strict=True)
    with torch.no_grad():
        (features,) = classifier.backbone(classifier.preprocess(images))
        expected = (
            features.flatten(2).mean(2) @ classifier.head.fc.weight.T + classifier.head.fc.bias
        )
    assert torch.allclose(found, expected, atol=1e-6)


def test_top_1_and_top_5_are_their_definition() -> None:
    classifier = model()
    found, targets = logits(classifier)
    states = classifier.states(found, targets)
    order = found.argsort(1, descending=True)
    truth = torch.tensor(targets)[:, None]
    total = metrics.merge(states, classifier.metric)
    assert metrics.value(total, classifier.metric) == (order[:, :1] == truth).float().mean()
    details = metrics.details(total, classifier.metric)
    assert details["top5"] == (order[:, :5] == truth).any(1).float().mean()


def test_the_evaluator_finds_what_the_model_does() -> None:
    classifier, data = model(), Shades()
    (dense, sparse) = evaluate(classifier, [(0, 0), (6, 6)], "l2", data, range(16), batch=16)
    found, targets = logits(classifier)
    assert dense == [metrics.merge(classifier.states(found, targets), classifier.metric)]
    classifier.set_sparsity(sparsevit.SparsityConfig.from_genes((6, 6), (1, 1), "l2"))
    found, targets = logits(classifier)
    assert sparse == [metrics.merge(classifier.states(found, targets), classifier.metric)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy(smoothing: float) -> None:
    classifier = model(label_smoothing=smoothing)
    found, targets = logits(classifier)
    images, _ = zip(*map(Shades().sample, range(len(Shades()))), strict=True)
    loss = classifier.loss(classifier.preprocess(images), targets)
    spread = torch.full((len(targets), len(NAMES)), smoothing / len(NAMES))
    spread[range(len(targets)), targets] += 1 - smoothing
    expected = -(spread * F.log_softmax(found, 1)).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_it_learns() -> None:
    classifier = model().train()
    images, targets = zip(*map(Shades().sample, range(len(Shades()))), strict=True)
    x = classifier.preprocess(images)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        classifier.loss(x, targets).backward()
        optimiser.step()
    found, labels = logits(classifier.eval())
    assert (found.argmax(1) == torch.tensor(labels)).float().mean() > 0.8


def test_training_images_are_random_parts_of_the_images() -> None:
    image, target = Shades().sample(3)
    one, label = model().augment(image, target, (32, 40), np.random.default_rng(0))
    again, _ = model().augment(image, target, (32, 40), np.random.default_rng(0))
    other, _ = model().augment(image, target, (32, 40), np.random.default_rng(1))
    assert (one.shape, label) == ((32, 40, 3), 3)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_file_of_ours_is_the_same_model(tmp_path: Path) -> None:
    classifier = model(label_smoothing=0.1)
    sparsevit.save_model(classifier, tmp_path / "m.safetensors")
    again = sparsevit.load_model(tmp_path / "m.safetensors")
    assert again.describe() == classifier.describe()
    assert (again.dialect, again.backbone.out_stages) == ("sparsevit", (1,))
    assert torch.equal(logits(again)[0], logits(classifier)[0])
    first = (tmp_path / "m.safetensors").read_bytes()
    sparsevit.save_model(again, tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == first


def test_what_makes_no_sense_is_refused() -> None:
    backbone = SparseSwin(SHAPE)
    with pytest.raises(ConfigError, match="class names"):
        ClassificationModel(backbone, [])
    with pytest.raises(ConfigError, match="class names"):
        ClassificationModel(backbone, "abc")
    with pytest.raises(ConfigError, match="label_smoothing"):
        ClassificationModel(backbone, NAMES, label_smoothing=1.0)
    with pytest.raises(ConfigError, match="last stage"):
        ClassificationModel(SparseSwin(SHAPE, out_stages=(0,)), NAMES)
    sliding = model()
    sliding.preprocess = Preprocess(resize=(56, 56), slide=0.5)
    with pytest.raises(ConfigError, match="slide must be null"):
        sliding.states(torch.zeros(1, 8), [0])
