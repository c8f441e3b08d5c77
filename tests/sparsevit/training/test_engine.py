from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsevit.sparsity.config import SparsityConfig
from sparsevit.training.adapt import adapt
from sparsevit.training.dense import train
from sparsevit.training.distributed import Processes
from sparsevit.training.finetune import finetune
from sparsevit.training.settings import TrainingSettings
from sparsevit.training.stream import SampleNumbers, TrainingSamples
from tests.sparsevit.training.small import (
    SETTINGS,
    SIZE,
    Canvases,
    digest,
    in_one_forward,
    small_model,
)


def losses_of(settings: TrainingSettings, **model) -> tuple[list[float], list[torch.Tensor]]:
    seen: list[float] = []
    trained = small_model(**model)
    adapt(trained, Canvases(), settings, "l2", lambda i, n, loss: seen.append(loss), size=SIZE)
    return seen, [p.detach() for p in trained.parameters()]


def test_accumulation_equals_the_big_batch_where_every_pixel_counts_alike() -> None:
    """The loss is a mean over pixels: with equal weights and nothing ignored, means of equal parts
    average to the mean of the whole."""
    settings = replace(SETTINGS, augment=False)
    small, weights = losses_of(settings, background_weight=1.0)
    big, expected = losses_of(in_one_forward(settings), background_weight=1.0)
    assert small == pytest.approx(big, abs=1e-5)
    for found, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)


def test_accumulation_is_the_mean_of_the_parts_losses() -> None:
    """With weighted classes a part's loss is a mean of its own: the step follows their mean."""
    settings = replace(SETTINGS, augment=False, steps=1)
    small, _ = losses_of(settings)
    model, dataset = small_model(), Canvases()
    samples = TrainingSamples(dataset, model, settings, SIZE)
    read = [samples.sample(n) for n in SampleNumbers(6, settings, 0, 1, Processes())]
    model.set_sparsity(_first_config(model, settings))
    parts = [
        model.loss(torch.cat([x for x, _ in part]), [y for _, y in part]).item()
        for part in (read[:2], read[2:])
    ]
    assert small[0] == pytest.approx(np.mean(parts), rel=1e-6)


def _first_config(model, settings) -> SparsityConfig:
    from sparsevit.training.plan import adaptation

    return adaptation(model.backbone.config.pairs, "l2", settings.seed, 1).config(0)


def test_training_in_bf16_follows_fp32() -> None:
    settings = replace(SETTINGS, steps=30, learning_rate=3e-3)
    exact, _ = losses_of(settings)
    mixed, weights = losses_of(replace(settings, precision="bf16"))
    assert mixed[-1] == pytest.approx(exact[-1], rel=0.05)
    assert mixed != exact
    assert all(p.dtype is torch.float32 for p in weights)


def test_activation_checkpointing_changes_memory_and_nothing_else() -> None:
    plain, frugal = small_model(0.2), small_model(0.2)
    frugal.backbone.set_activation_checkpointing()
    for model in (plain, frugal):
        finetune(model, Canvases(), SETTINGS, SparsityConfig(((0.3,), (0.5,))), size=SIZE)
    assert digest(plain) == digest(frugal)


def test_the_callers_own_chance_is_left_alone() -> None:
    model = small_model(0.5)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train(model, Canvases(), replace(SETTINGS, steps=1), size=SIZE)
    assert torch.equal(torch.rand(3), expected)


def test_augmentation_draws_anew_in_every_epoch() -> None:
    dataset = Canvases()
    samples = TrainingSamples(dataset, small_model(), SETTINGS, SIZE)
    first, again, later = (samples.sample(n) for n in (2, 2, 2 + len(dataset)))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], later[0])
    assert first[0].shape == (1, 3, *SIZE)
    assert first[1].shape == SIZE


def test_a_data_set_that_varies_itself_is_not_augmented() -> None:
    dataset = Canvases()
    plain = TrainingSamples(dataset, small_model(), replace(SETTINGS, augment=False), None)
    varied = type("Varied", (Canvases,), {"augmented": True})()
    given = TrainingSamples(varied, small_model(), SETTINGS, None)
    image, labels = dataset.sample(3)
    for samples in (plain, given):
        x, target = samples.sample(3 + 2 * len(dataset))
        assert torch.equal(x, small_model().preprocess([image]))
        assert np.array_equal(target, labels)


def test_every_image_is_read_once_an_epoch_whatever_the_start() -> None:
    settings = TrainingSettings(steps=9, batch=2, accumulate=2, seed=1)
    whole = list(SampleNumbers(6, settings, 0, 9, Processes()))
    assert len(whole) == 36
    for epoch in range(6):
        assert sorted(whole[6 * epoch : 6 * epoch + 6]) == list(range(6 * epoch, 6 * epoch + 6))
    assert list(SampleNumbers(6, settings, 4, 9, Processes())) == whole[16:]
    order = np.random.default_rng(1)
    assert whole[:6] == order.permutation(6).tolist()
    assert [n % 6 for n in whole[6:12]] == order.permutation(6).tolist()


def test_processes_share_every_batch() -> None:
    settings = TrainingSettings(steps=5, batch=4, accumulate=2, seed=1)
    whole = list(SampleNumbers(7, settings, 1, 5, Processes()))
    shares = [SampleNumbers(7, settings, 1, 5, Processes(rank, 2)) for rank in (0, 1)]
    assert [len(share) for share in shares] == [16, 16]
    joined = [
        number for i in range(0, 16, 2) for share in shares for number in list(share)[i : i + 2]
    ]
    assert joined == whole
