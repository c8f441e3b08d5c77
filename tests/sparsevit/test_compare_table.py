"""The table of a comparison, its verdicts and its figure, of two seeds with numbers made by hand."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from sparsevit.compare.figure import tradeoff_png
from sparsevit.compare.plan import (
    Plan,
)
from sparsevit.compare.rows import Row, place_key
from sparsevit.compare.settings import CompareSettings
from sparsevit.compare.table import COLUMNS, comparison, csv_text, sparsity_text
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes
from tests.sparsevit.maps import linear_map

PLAN = Plan(
    rows=(
        Row("dense", "dense", (448, 448)),
        Row("R336", "resolution", (336, 336)),
        Row("uniform 0.6", "uniform", (448, 448), genes=(6, 6), against=("R336",)),
        Row("searched (R336)", "searched", (448, 448), against=("R336",)),
    ),
    latency_map=linear_map(SearchSpace((1, 1), (64, 16))),
    budgets={"R336": 5.0},
    steps={},
    step_seconds={},
    notes=("a note",),
)


def made(genes: Genes, metric: float, sparse: bool = False) -> dict[str, Any]:
    spent = {"steps": 10, "seconds": 30.0, "cpu_seconds": 20.0}
    return {
        "genes": list(genes),
        **spent,
        "adaptation": {"steps": 5, "seconds": 30.0, "cpu_seconds": 20.0} if sparse else None,
        "search_seconds": None,
        "metric": metric,
        "interval": [metric - 0.1, metric + 0.1],
        "details": {"pixel_accuracy": metric / 2},
    }


def results(searched: float) -> list[dict[str, Any]]:
    """Of two seeds; the second one's searched config is another."""
    return [
        {
            "dense": made((0, 0), 0.60),
            "R336": made((0, 0), 0.50),
            "uniform 0.6": made((6, 6), 0.55, True),
            "searched (R336)": made(genes, metric, True),
        }
        for genes, metric in (((5, 7), 0.58), ((4, 8), searched))
    ]


def latencies(searched_ms: float = 5.0) -> dict[str, Any]:
    ms = {
        place_key(PLAN.rows[0], (0, 0)): 10.0,
        place_key(PLAN.rows[1], (0, 0)): 5.0,
        place_key(PLAN.rows[2], (6, 6)): 4.8,
        place_key(PLAN.rows[3], (5, 7)): 4.9,
        place_key(PLAN.rows[3], (4, 8)): searched_ms,
    }
    return {
        "input": {"batch": 1, "precision": "fp32", "mode": "eager"},
        "device": {"model": "test"},
        "host": {},
        "versions": {},
        "places": {
            key: {
                "channels": [24, 48],
                "parameters": 1000,
                "padding": 1.0,
                "macs": int(1e8 * value),
                "latency_ms": {
                    scope: {
                        "ratio": value / 10,
                        "ratio_interval": [value / 10 - 0.01, value / 10 + 0.01],
                        "reference_p50": 10.0 * part,
                        "disturbed": False,
                    }
                    for scope, part in (("model", 1.0), ("backbone", 0.8))
                },
            }
            for key, value in ms.items()
        },
    }


def document(searched: float = 0.56, searched_ms: float = 5.0) -> dict[str, Any]:
    settings = CompareSettings(seeds=2)
    return comparison(
        PLAN, results(searched), latencies(searched_ms), settings, "digit_miou", "report"
    )


def test_the_table_has_means_over_the_seeds_and_every_column() -> None:
    row = document()["rows"][3]
    assert row["metric"] == {"mean": pytest.approx(0.57), "low": 0.56, "high": 0.58} | {
        "seeds": [0.58, 0.56]
    }
    assert row["latency_ms"]["model"]["seeds"] == pytest.approx([4.9, 5.0])
    assert row["latency_ms"]["backbone"]["mean"] == pytest.approx(4.95 * 0.8)
    assert row["latency_ms"]["model"]["of_dense"] == pytest.approx(0.495)
    assert row["macs"] == pytest.approx(4.95e8)
    assert row["sparsity"] == [[0.5, 0.7], [0.4, 0.8]]
    assert row["details"] == {"pixel_accuracy": pytest.approx(0.285)}
    assert row["training"] == {"steps": [15, 15], "seconds": 60.0, "cpu_seconds": 40.0}
    assert document()["rows"][0]["training"]["seconds"] == 30.0


def verdicts(document: dict[str, Any]) -> dict[tuple[str, str], bool]:
    return {(v["row"], v["against"]): v["holds"] for v in document["verdicts"]}


def test_a_verdict_needs_every_seed_and_the_latency() -> None:
    pair, uniform = ("searched (R336)", "R336"), ("searched (R336)", "uniform 0.6")
    assert verdicts(document()) == {pair: True, ("uniform 0.6", "R336"): True, uniform: False}
    assert verdicts(document(searched=0.49))[pair] is False
    slow = document(searched_ms=5.4)
    assert verdicts(slow)[pair] is False
    assert slow["verdicts"][0]["latency_ratio"] == pytest.approx((4.9 + 5.4) / 2 / 5.0)
    assert document()["verdicts"][0]["gain"]["seeds"] == pytest.approx([0.08, 0.06])


def test_searched_is_held_against_the_uniform_row_that_is_as_slow() -> None:
    dense, *others, searched = PLAN.rows
    denser = Row("uniform 0.5", "uniform", (448, 448), genes=(5, 5))
    plan = replace(PLAN, rows=(dense, *others, denser, searched))
    found = [seed | {"uniform 0.5": made((5, 5), 0.555, True)} for seed in results(0.56)]
    timed = latencies(searched_ms=5.4)
    place = timed["places"][place_key(searched, (4, 8))]
    for ms, against in ((5.2, "uniform 0.5"), (5.0, "uniform 0.6")):  # searched takes 5.15
        latency = {s: one | {"ratio": ms / 10} for s, one in place["latency_ms"].items()}
        timed["places"][place_key(denser, (5, 5))] = place | {"latency_ms": latency}
        told = comparison(plan, found, timed, CompareSettings(seeds=2), "m", "report")
        assert verdicts(told)["searched (R336)", against] is (against == "uniform 0.5")


def test_disturbed_latencies_are_named() -> None:
    noisy = latencies()
    noisy["places"][place_key(PLAN.rows[1], (0, 0))]["latency_ms"]["model"]["disturbed"] = True
    found = comparison(PLAN, results(0.56), noisy, CompareSettings(seeds=2), "m", "report")
    assert found["notes"][0] == "a note"
    assert "the latencies of R336:" in found["notes"][1]
    assert document()["notes"] == ["a note"]


def test_the_csv_has_a_line_for_each_row() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(document()))))
    assert [line["name"] for line in lines] == [row.name for row in PLAN.rows]
    assert set(COLUMNS) < lines[0].keys()
    assert lines[3]["sparsity"] == ".5 .7 | .4 .8"
    assert float(lines[3]["model_ms"]) == pytest.approx(4.95)
    assert float(lines[1]["pixel_accuracy"]) == pytest.approx(0.25)
    assert (lines[0]["sparsity"], lines[2]["disturbed"]) == ("-", "False")
    assert sparsity_text([0.3, 0, 0.1]) == ".3 0 .1"


def test_the_figure_draws_every_kind_of_row() -> None:
    picture = tradeoff_png(document())
    assert Image.open(io.BytesIO(picture)).format == "PNG"
    without = {**document(), "rows": [r for r in document()["rows"] if r["kind"] != "searched"]}
    assert tradeoff_png(without) != picture
    assert tradeoff_png(document()) == picture
