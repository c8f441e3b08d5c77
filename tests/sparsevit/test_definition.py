"""The fast sparse path against the slow definition: which windows, then what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsevit.sparsity.config import SparsityConfig
from sparsevit.sparsity.score import SCORES
from sparsevit.swin import portions
from sparsevit.swin.config import SMALL_MAPS
from sparsevit.swin.model import SparseSwin
from tests.sparsevit import reference_swin
from tests.sparsevit.twins import largest_difference, random_model

WINDOWWISE = sorted(set(SCORES) - {"random"})  # rounding decides what `random` keeps


@contextmanager
def rows_at_once(rows: int) -> Iterator[None]:
    """Few rows cut even a small network's work into many portions."""
    before = portions.ROWS_AT_ONCE, portions.BYTES_AT_ONCE
    portions.ROWS_AT_ONCE, portions.BYTES_AT_ONCE = rows, 1
    try:
        yield
    finally:
        portions.ROWS_AT_ONCE, portions.BYTES_AT_ONCE = before


def chosen_windows(model: SparseSwin, images: Tensor) -> list[list[list[list[int]]]]:
    """As reference_swin.Trace.chosen; a dense block's windows in order of their index."""
    chosen: list[list[list[list[int]]]] = [[] for _ in images]
    x = model.patch_embed(images)
    for stage, levels in zip(model.layers, model.sparsity.levels, strict=True):
        score = model.stage_score(levels)
        state = stage.enter(x, score)
        for pair, level in enumerate(levels):
            stage.run_pair(state, pair, level, score)
        for image, per_stage in enumerate(chosen):
            per_stage.append(
                [_kept(state, block, kept, image) for block, kept in enumerate(state.kept)]
            )
        x = stage.leave(state)
        x = stage.downsample(x) if stage.downsample is not None else x
    return chosen


def _kept(state, block: int, kept: int, image: int) -> list[int]:
    if kept == state.partitions[block % 2].windows:
        return list(range(kept))
    return state.rankings[block % 2][image, :kept].tolist()


def assert_equals_definition(model: SparseSwin, images: Tensor, tolerance: float) -> None:
    with torch.no_grad():
        expected = reference_swin.trace(model, images, model.sparsity)
        for ours, theirs in zip(chosen_windows(model, images), expected.chosen, strict=True):
            for stage, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
                windows = model.config.stage_windows(*images.shape[-2:])[stage]
                for a, b in zip(mine, reference, strict=True):
                    assert a == (sorted(b) if len(b) == windows else b)
        assert largest_difference(model(images), expected.maps) <= tolerance


@pytest.mark.parametrize("score", sorted(SCORES))
@pytest.mark.parametrize("rows", [16, 10**9])
def test_every_score_equals_the_definition(score: str, rows: int) -> None:
    model = random_model(embed_dim=8, depths=(2, 4), num_heads=(2, 2), window_size=4)
    model.set_sparsity(SparsityConfig(((0.5,), (0.3, 0.8)), score))
    images = torch.randn(2, 3, 100, 76, dtype=torch.float64)
    with rows_at_once(rows):
        assert_equals_definition(model, images, 1e-10)


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(3, 90),
    width=st.integers(3, 90),
    window=st.integers(2, 5),
    batch=st.integers(1, 2),
    depths=st.lists(st.sampled_from([2, 4]), min_size=1, max_size=3),
    levels=st.lists(st.integers(0, 8), min_size=6, max_size=6),
    score=st.sampled_from(WINDOWWISE),
    small_map=st.sampled_from(SMALL_MAPS),
    rows=st.sampled_from([7, 60, 10**9]),
)
def test_any_size_depth_window_and_ratio_equals_the_definition(
    height: int,
    width: int,
    window: int,
    batch: int,
    depths: list[int],
    levels: list[int],
    score: str,
    small_map: str,
    rows: int,
) -> None:
    model = random_model(
        embed_dim=4,
        depths=tuple(depths),
        num_heads=(1, 2, 2)[: len(depths)],
        window_size=window,
        small_map=small_map,
    )
    pairs = model.config.pairs
    cut = [levels[2 * i : 2 * i + count] for i, count in enumerate(pairs)]
    genes = [level for stage in cut for level in sorted(stage)]
    model.set_sparsity(SparsityConfig.from_genes(genes, pairs, score))
    images = torch.randn(batch, 3, height, width, dtype=torch.float64)
    with rows_at_once(rows):
        assert_equals_definition(model, images, 1e-9)


@pytest.mark.parametrize("score", ["variance", "released"])
def test_gradients_equal_the_definition(score: str) -> None:
    model = random_model(embed_dim=4, depths=(2, 4), num_heads=(1, 2), window_size=4)
    sparsity = SparsityConfig(((0.4,), (0.0, 0.5)), score)
    images = torch.randn(2, 3, 50, 40, dtype=torch.float64)
    model.set_sparsity(sparsity)
    sum(f.pow(2).sum() for f in model(images)).backward()
    ours = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    sum(f.pow(2).sum() for f in reference_swin.features(model, images, sparsity)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_windows_and_stays_near_single_precision(dtype: torch.dtype) -> None:
    """Scores are fp32 under autocast too. The first stage's input is made in half precision, so the
    definition is given that very input's scores by comparing windows under the same autocast."""
    model = random_model(torch.float32, embed_dim=8, depths=(2,), num_heads=(2,), window_size=4)
    model.set_sparsity(SparsityConfig(((0.6,),), "variance"))
    images = torch.randn(2, 3, 100, 76)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        expected = reference_swin.trace(model, images, model.sparsity)
        assert [[b for s in i for b in s] for i in chosen_windows(model, images)] == [
            [b for s in i for b in s] for i in expected.chosen
        ]
        assert largest_difference(model(images), expected.maps) < 0.05
    half = model.to(dtype)
    with torch.no_grad():
        expected = reference_swin.trace(half, images.to(dtype), half.sparsity)
        assert chosen_windows(half, images.to(dtype)) == expected.chosen
        assert largest_difference(half(images.to(dtype)), expected.maps) < 0.05


def test_ties_go_to_the_lower_window_in_every_portion() -> None:
    model = random_model(embed_dim=4, depths=(2,), num_heads=(1,), window_size=4)
    model.set_sparsity(SparsityConfig(((0.5,),), "l2"))
    images = torch.zeros(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad(), rows_at_once(16):
        for image in chosen_windows(model, images):
            assert image == [[list(range(8)), list(range(8))]]


def test_a_map_that_other_images_filled_leaves_nothing_behind() -> None:
    """Padding reads a row that windows write to: what one image left must not reach the next."""
    model = random_model(embed_dim=4, depths=(2, 2), num_heads=(1, 2), window_size=4)
    model.set_sparsity(SparsityConfig(((0.4,), (0.5,)), "variance"))
    images = torch.randn(1, 3, 50, 42, dtype=torch.float64)
    with torch.no_grad():
        first = model(images)
        model(torch.full((2, 3, 50, 42), 1e6, dtype=torch.float64))
        model(torch.full((1, 3, 80, 30), float("nan"), dtype=torch.float64))
        assert all(torch.equal(a, b) for a, b in zip(model(images), first, strict=True))
