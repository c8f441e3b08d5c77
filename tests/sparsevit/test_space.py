"""SearchSpace against brute force and closed forms."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from sparsevit.errors import ConfigError
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import SparsityConfig, kept_windows
from tests.sparsevit.maps import SMALL_MAPS, SWIN_L, SWIN_T, TINY


def is_non_descending(space: SearchSpace, rows: np.ndarray) -> bool:
    stages = np.split(rows.astype(int), np.cumsum(space.pairs)[:-1], axis=1)
    return all((np.diff(stage, axis=1) >= 0).all() for stage in stages)


def test_sizes_of_the_published_networks():
    assert SWIN_T.size == 120_285
    assert SWIN_L.size == 17_721_990
    assert SMALL_MAPS.size == 120_285
    assert SMALL_MAPS.distinct_size == 1_620


def test_enumeration_is_brute_force_filtered():
    expected = [
        (a, b, *c)
        for a, b in product(TINY.levels, repeat=2)
        for c in product(TINY.levels, repeat=2)
        if list(c) == sorted(c)
    ]
    rows = TINY.enumerate()
    assert rows.dtype == np.uint8
    assert [tuple(row) for row in rows.tolist()] == expected
    assert len(expected) == TINY.size


def test_enumeration_of_swin_t_is_complete_and_valid():
    rows = SWIN_T.enumerate()
    assert rows.shape == (120_285, 6)
    assert len(np.unique(rows, axis=0)) == 120_285
    assert is_non_descending(SWIN_T, rows)


def test_distinct_enumeration_has_each_key_once():
    keys = np.unique(SMALL_MAPS.kept(SMALL_MAPS.enumerate()), axis=0)
    distinct = SMALL_MAPS.kept(SMALL_MAPS.enumerate(distinct=True))
    assert len(distinct) == SMALL_MAPS.distinct_size == len(keys)
    assert np.array_equal(np.unique(distinct, axis=0), keys)


def test_a_space_too_large_to_list_says_so_and_can_still_be_sampled():
    space = SearchSpace((40, 40), (64, 64))
    with pytest.raises(ConfigError, match="too many"):
        space.enumerate()
    assert is_non_descending(space, space.sample(np.random.default_rng(0), 50))


def test_sampling_is_uniform():
    """Chi-square against equal frequencies, over all 9 * 10 = 90 configs."""
    space = SearchSpace((2, 3), (64, 16), (1, 4, 7))
    rows, counts = np.unique(
        space.sample(np.random.default_rng(0), 90_000), axis=0, return_counts=True
    )
    assert len(rows) == space.size == math.comb(4, 2) * math.comb(5, 3)
    expected = 90_000 / space.size
    freedom = space.size - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # Mean `freedom`, standard deviation sqrt(2 * freedom): far beyond would be a bias.
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def test_sampling_repeats_with_the_seed():
    first, second = (SWIN_T.sample(np.random.default_rng(7), 20) for _ in range(2))
    assert np.array_equal(first, second)


def test_repair_sorts_within_stages_and_moves_to_allowed_levels():
    space = SearchSpace((1, 3), (64, 16), (0, 3, 6))
    assert space.repair([9, 5, -2, 1]).tolist() == [6, 0, 0, 6]
    assert space.repair(np.array([[1, 2, 4, 5]])).tolist() == [[0, 3, 3, 6]]


def test_repair_leaves_configs_alone():
    rows = SWIN_T.sample(np.random.default_rng(1), 200)
    assert np.array_equal(SWIN_T.repair(rows), rows)


def test_repair_makes_configs_of_anything():
    rows = np.random.default_rng(2).integers(-3, 15, size=(300, TINY.gene_count))
    fixed = TINY.repair(rows)
    assert is_non_descending(TINY, fixed)
    assert set(np.unique(fixed)) <= set(TINY.levels)


def test_key_is_the_kept_counts():
    genes = (1, 2, 3, 5, 8, 8)
    windows = (64, 16, 4, 4, 4, 1)
    assert SMALL_MAPS.key(genes) == tuple(map(kept_windows, windows, genes))
    assert SMALL_MAPS.key((0, 0, 1, 1, 1, 0)) == SMALL_MAPS.key((0, 0, 2, 2, 2, 8))


def test_the_canonical_config_keeps_the_same_at_the_lowest_allowed_levels():
    space = SearchSpace((1, 1, 3), (64, 4, 1), (1, 2, 3, 5, 8))
    rows = space.enumerate()
    canonical = space.canonical(rows)
    assert np.array_equal(space.kept(canonical), space.kept(rows))
    assert np.array_equal(space.repair(canonical), canonical)
    assert np.array_equal(
        np.unique(canonical, axis=0), np.unique(space.enumerate(distinct=True), axis=0)
    )
    assert space.canonical((5, 2, 3, 5, 8)).tolist() == [5, 1, 1, 1, 1]


def test_uniform_configs_are_those_of_sparsity_config():
    ratios = [level / 10 for level in SWIN_T.levels]
    expected = [SparsityConfig.uniform(SWIN_T.pairs, ratio).genes for ratio in ratios]
    assert [tuple(row) for row in SWIN_T.uniform().tolist()] == expected


@pytest.mark.parametrize(
    ("pairs", "windows", "levels", "says"),
    [
        ((), (), (0, 1), "pair"),
        ((1, 0), (4, 4), (0, 1), "pair"),
        ((1, 1), (4,), (0, 1), "windows"),
        ((1,), (0,), (0, 1), "windows"),
        ((1,), (4,), (), "levels"),
        ((1,), (4,), (3, 1), "ascending"),
        ((1,), (4,), (1, 1), "ascending"),
        ((1,), (4,), (0, 9), "between 0 and 8"),
        ((1,), (4,), (-1, 2), "between 0 and 8"),
        ((1.5,), (4,), (0, 1), "integers"),
        ((True,), (4,), (0, 1), "integers"),
    ],
)
def test_bad_spaces_are_refused(pairs, windows, levels, says):
    with pytest.raises(ConfigError, match=says):
        SearchSpace(pairs, windows, levels)


@pytest.mark.parametrize("genes", [(1, 2), [0.5] * 6, [9] * 6])
def test_bad_genes_are_refused(genes):
    with pytest.raises(ConfigError, match="level"):
        SWIN_T.key(genes)
