"""What a comparison is made of: its rows, sizes, budgets and steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsevit.compare.plan import (
    ADAPTATION,
    budgets_of,
    check_quiet,
    equal_steps,
    uniform_of,
)
from sparsevit.compare.rows import Row, dense_rows, sparse_for, sparse_rows
from sparsevit.compare.settings import CompareSettings
from sparsevit.compare.sizes import aligned_below, padding_note, padding_ratio, reduced_sizes
from sparsevit.compare.store import Store
from sparsevit.errors import BudgetUnreachable, ConfigError, DeviceDisturbed
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes
from sparsevit.swin.config import SwinConfig
from tests.sparsevit.maps import linear_map

DIGITS = SwinConfig(embed_dim=24, depths=(2, 2, 6), num_heads=(1, 2, 4))


def test_reduced_resolutions_are_those_without_padding() -> None:
    assert reduced_sizes(DIGITS, (448, 448), None) == [(336, 336), (224, 224)]
    assert aligned_below(SwinConfig(), (896, 1792)) == [(672, 1344), (448, 896)]
    assert aligned_below(SwinConfig(), (256, 704)) == [(224, 672)]
    for size in ((672, 1344), (448, 896), (224, 672)):
        assert padding_ratio(SwinConfig(), size) == 1
    # Nothing is aligned below one window of the last stage: shares of the size then.
    assert reduced_sizes(SwinConfig(), (224, 224), None) == [(196, 196), (168, 168)]


def test_a_resolution_that_is_asked_for_is_taken_and_its_padding_told() -> None:
    assert reduced_sizes(DIGITS, (448, 448), ((280, 280), (336, 336))) == [(336, 336), (280, 280)]
    # 70 tokens are 10 windows of 7; 35 are 5; 18 are 3 of 7, that is 21 for 18.
    assert padding_ratio(DIGITS, (280, 280)) == pytest.approx((2 + 2 + 6 * (21 / 18) ** 2) / 10)
    note = padding_note(DIGITS, "R280", (280, 280))
    assert note is not None
    assert "R280 computes 1.22 tokens" in note
    assert "224 x 224, 224 x 336, 336 x 224, 336 x 336" in note
    assert padding_note(DIGITS, "R336", (336, 336)) is None


@pytest.mark.parametrize("size", [(448, 448), (672, 336), (2, 448)])
def test_a_reduced_resolution_is_smaller(size) -> None:
    with pytest.raises(ConfigError, match="no reduced resolution"):
        reduced_sizes(DIGITS, (448, 448), (size,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"widths": (1.0,)},
        {"widths": (0.5, 0.5)},
        {"sizes": ((224, 224), (224, 224))},
        {"seeds": 0},
        {"adapt_share": 1.0},
        {"scope": "head"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CompareSettings(**wrong)


def test_rows_are_the_papers() -> None:
    settings = CompareSettings(sizes=((256, 256), (224, 448)), widths=(0.6,))
    rows = dense_rows(DIGITS, (448, 448), settings)
    assert [(r.name, r.kind, r.size, r.width) for r in rows] == [
        ("dense", "dense", (448, 448), 1.0),
        ("R256", "resolution", (256, 256), 1.0),
        ("R224x448", "resolution", (224, 448), 1.0),
        ("W0.6", "width", (448, 448), 0.6),
    ]
    sparse = sparse_rows((448, 448), {"R256": (6, 6), "R224x448": (3, 3), "W0.6": (6, 6)})
    assert [(r.name, r.against) for r in sparse] == [
        ("uniform 0.3", ("R224x448",)),
        ("uniform 0.6", ("R256", "W0.6")),
        ("searched (R256)", ("R256",)),
        ("searched (R224x448)", ("R224x448",)),
        ("searched (W0.6)", ("W0.6",)),
    ]
    assert sparse_for(sparse, "uniform", "W0.6").name == "uniform 0.6"
    assert [Row.from_dict(json.loads(json.dumps(r.to_dict()))) for r in (*rows, *sparse)] == [
        *rows,
        *sparse,
    ]


def test_every_row_is_trained_for_the_same_time() -> None:
    rows = (*dense_rows(DIGITS, (448, 448), CompareSettings()), *sparse_rows((448, 448), SPARSE))
    cost = {"dense": 1.0, "R336": 0.5, "R224": 0.25, "W0.75": 0.8, "W0.5": 0.4, ADAPTATION: 0.6}
    cost |= {row.name: 0.5 for row in rows if row.sparse}
    steps = equal_steps(rows, cost, 300, adapt_share=0.2)
    assert {name: steps[name] for name in ("dense", "R336", "R224")} == {
        "dense": 300,
        "R336": 600,
        "R224": 1200,
    }
    assert steps[ADAPTATION] == 100
    for row in rows:
        adaptation = cost[ADAPTATION] * steps[ADAPTATION] if row.sparse else 0
        seconds = adaptation + cost[row.name] * steps[row.name]
        assert seconds == pytest.approx(300, abs=1), row.name


SPARSE: dict[str, Genes] = {"R336": (4, 4, 4, 4, 4), "R224": (8, 8, 8, 8, 8)}


def test_a_folder_belongs_to_one_comparison(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    store.check_same("question.json", {"weights": "a", "sizes": ((1, 2),)})
    store.check_same("question.json", {"weights": "a", "sizes": ((1, 2),)})
    with pytest.raises(ConfigError, match="another comparison: its weights was a, now it is b"):
        store.check_same("question.json", {"weights": "b", "sizes": ((1, 2),)})
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        Store(tmp_path / "file" / "folder")


def test_dense_rows_that_sparsity_cannot_meet_are_told() -> None:
    """The map takes 5 ms for what no ratio changes."""
    space = SearchSpace((1, 2), (64, 16))
    latency_map = linear_map(space)
    ratios = {"R1": 0.6, "W1": 1.2, "R2": 0.01}
    budgets, told = budgets_of(ratios, latency_map, space, "model")
    assert budgets == {"R1": pytest.approx(0.98 * 0.6 * latency_map.dense_ms)}
    assert told[0].startswith("W1 is no faster than dense (1.20 of it)")
    assert told[1].startswith("R2 is faster than every sparse config")
    with pytest.raises(BudgetUnreachable, match="R2 is faster"):
        budgets_of({"R2": 0.01}, latency_map, space, "model")


def test_budgets_of_a_disturbed_device_end_the_comparison() -> None:
    check_quiet(CompareSettings(), "timed", False)
    check_quiet(CompareSettings(strict=False), "timed", True)
    with pytest.raises(DeviceDisturbed, match="while it was timed"):
        check_quiet(CompareSettings(), "timed", True)


def test_uniform_is_the_densest_within_the_budget() -> None:
    latency_map = linear_map(SearchSpace((1, 2), (64, 16)))
    found = uniform_of(latency_map, {"R1": 15.0, "R2": 0.1}, "model")
    level = found["R1"][0]
    assert found["R1"] == (level,) * 3
    assert latency_map.predict((level,) * 3) <= 15 < latency_map.predict((level - 1,) * 3)
    assert found["R2"] == (8, 8, 8)  # what is too slow by prediction is at least near
