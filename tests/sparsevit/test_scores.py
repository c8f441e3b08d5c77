"""Window scores: closed forms, the released code's formula, and scores of a user's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sparsevit
from sparsevit.errors import ConfigError
from sparsevit.sparsity import score as scores
from sparsevit.sparsity.config import SCORE_NAMES, SparsityConfig
from sparsevit.sparsity.select import rank_windows
from sparsevit.swin.model import SparseSwin
from sparsevit.swin.windows import partition
from tests.sparsevit.twins import largest_difference, random_model, stage_outputs

# Two windows of two tokens with two channels.
WINDOWS = torch.tensor([[[[3.0, 4.0], [0.0, 0.0]], [[1.0, -1.0], [-1.0, 3.0]]]])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (scores.l2, [5.0, 12**0.5]),
        (scores.mean_abs, [3.5, 5**0.5]),
        (scores.variance, [1.5**2 + 2.0**2, 1.0 + 4.0]),
    ],
)
def test_closed_forms(function: scores.ScoreFunction, expected: list[float]) -> None:
    torch.testing.assert_close(function(WINDOWS, None), torch.tensor([expected]))


def test_variance_counts_real_tokens_only() -> None:
    real = torch.tensor([[[1.0], [0.0]], [[1.0], [1.0]]])
    padded = WINDOWS * real
    torch.testing.assert_close(scores.variance(padded, real), torch.tensor([[0.0, 5.0]]))


def test_variance_keeps_its_digits_beside_a_large_mean() -> None:
    torch.manual_seed(0)
    windows = 100 + 0.1 * torch.randn(1, 16, 49, 8)
    exact = windows.double().var(2, unbiased=False).sum(2).float()
    torch.testing.assert_close(scores.variance(windows, None), exact, rtol=1e-3, atol=0)


def test_every_name_a_config_offers_is_a_score() -> None:
    assert sorted(SCORE_NAMES) == sorted(scores.SCORES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_score_sees_single_precision(dtype: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(scores, "SCORES", dict(scores.SCORES))
    seen: list[torch.dtype] = []

    def mine(windows: Tensor, real: Tensor | None) -> Tensor:
        seen.append((windows @ windows.transpose(2, 3)).dtype)  # autocast would make this half
        return windows.sum((2, 3))

    own = sparsevit.register_score("mine", mine)
    part = partition(8, 8, 4, (0, 0), torch.device("cpu"))
    table = torch.randn(64, 4, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ranking = rank_windows(own, part, table, part.tokens_nN[None])
    assert seen == [torch.float32]
    sums = table.float()[part.tokens_nN].sum((1, 2))
    assert ranking[0].tolist() == sums.argsort(descending=True).tolist()


def test_a_score_of_ones_own_chooses_the_windows(monkeypatch) -> None:
    monkeypatch.setattr(scores, "SCORES", dict(scores.SCORES))
    model = random_model(embed_dim=4, depths=(2,), num_heads=(1,), window_size=4)
    sparsevit.register_score("negative_l2", lambda windows, real: -scores.l2(windows, real))
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    kept = []
    with torch.no_grad():
        for name in ("l2", "negative_l2"):
            model.set_sparsity(SparsityConfig(((0.5,),), name))
            stage, score = model.layers[0], scores.get_score(name)
            kept.append(stage.enter(model.patch_embed(images), score).rankings[0][0].tolist())
            model(images)
            assert model.executed_windows == ((8, 8),)
    assert kept[0] == kept[1][::-1]


def test_scores_that_cannot_be_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(scores, "SCORES", dict(scores.SCORES))
    with pytest.raises(ConfigError, match="already"):
        sparsevit.register_score("l2", scores.variance)
    with pytest.raises(ConfigError, match="name"):
        sparsevit.register_score("", scores.variance)
    sparsevit.register_score("whole_map", lambda windows, real: windows.sum((1, 2, 3)))
    model = random_model(embed_dim=4, depths=(2,), num_heads=(1,), window_size=4)
    model.set_sparsity(SparsityConfig(((0.5,),), "whole_map"))
    with pytest.raises(ConfigError, match="one number for each window"):
        model(torch.randn(1, 3, 64, 64, dtype=torch.float64))


def released_stage(model: SparseSwin, stage: int, x: Tensor, ratios: list[float]) -> Tensor:
    """A stage as the released code computes it, at sizes without padding: ratios by block, windows
    ranked by mean |x| at the first block with a ratio, `int(n * (1 - ratio))` of them kept."""
    window, half = model.config.window_size, model.config.window_size // 2
    magnitude, order = None, {}
    for index, block in enumerate(model.layers[stage].blocks):
        roll = half * (index % 2)
        if ratios[index] > 0 and magnitude is None:
            magnitude = x.abs().mean(-1, keepdim=True)
        windows = cut(x, window, roll)
        out, types = windows.clone(), None
        if roll:
            part = partition(*x.shape[1:3], window, (roll, roll), x.device)
            types = part.types_n
        if magnitude is None:
            chosen = torch.arange(windows.shape[1])
        else:
            norms = cut(magnitude, window, roll).squeeze(-1).norm(dim=2)
            if roll not in order:
                order[roll] = norms.topk(norms.shape[1], dim=1).indices[0]
            chosen = order[roll][: int(windows.shape[1] * (1 - ratios[index]))]
        rows = windows[0, chosen].reshape(-1, x.shape[-1])
        kept_types = None if types is None else types[chosen]
        out[0, chosen] = block(rows, kept_types, None).view(len(chosen), window**2, -1)
        x = joined(out, x.shape, window, roll)
    return x


def cut(x: Tensor, window: int, roll: int) -> Tensor:
    batch, height, width, channels = x.shape
    x = x.roll((-roll, -roll), (1, 2))
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, -1, window**2, channels)


def joined(windows: Tensor, shape: torch.Size, window: int, roll: int) -> Tensor:
    batch, height, width, channels = shape
    x = windows.view(batch, height // window, width // window, window, window, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(shape)
    return x.roll((roll, roll), (1, 2))


# The released 42 ms and 33 ms configs, on a network of their depths.
@pytest.mark.parametrize(
    "ratios",
    [((0.3,), (0.0,), (0.1, 0.2, 0.2), (0.0,)), ((0.7,), (0.0,), (0.2, 0.4, 0.5), (0.0,))],
)
def test_released_scoring_equals_the_released_code(ratios: tuple) -> None:
    model = random_model(embed_dim=8, depths=(2, 2, 6, 2), num_heads=(1, 1, 2, 2))
    sparsity = SparsityConfig(ratios, "released")
    images = torch.randn(1, 3, 672, 672, dtype=torch.float64)
    with torch.no_grad():
        x, expected = model.patch_embed(images), []
        for index, stage in enumerate(model.layers):
            blocks = [r for r in ratios[index] for _ in (0, 1)]
            x = released_stage(model, index, x, blocks)
            expected.append(x)
            x = stage.downsample(x) if stage.downsample is not None else x
        model.set_sparsity(sparsity)
        assert largest_difference(stage_outputs(model, images), expected) <= 1e-10


def test_released_scores_where_the_first_windows_fall_away() -> None:
    """Unlike mean_abs, which ranks the stage's input: where the first pairs are dense they differ."""
    model = random_model(embed_dim=8, depths=(6,), num_heads=(1,))
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)

    def features(ratios: tuple[float, ...], score: str) -> Tensor:
        model.set_sparsity(SparsityConfig((ratios,), score))
        with torch.no_grad():
            return model(images)[0]

    assert torch.equal(features((0.5, 0.5, 0.6), "released"), features((0.5, 0.5, 0.6), "mean_abs"))
    assert not torch.equal(
        features((0.0, 0.5, 0.6), "released"), features((0.0, 0.5, 0.6), "mean_abs")
    )
