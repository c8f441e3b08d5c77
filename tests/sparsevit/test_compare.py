"""The comparison: its rows, what it settles, its table and figure; trainings of a tiny model."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparsevit.compare.cost import Case, step_seconds
from sparsevit.compare.figure import tradeoff_png
from sparsevit.compare.plan import (
    ADAPTATION,
    Plan,
    budgets_of,
    check_quiet,
    equal_steps,
    uniform_of,
)
from sparsevit.compare.rows import Row, dense_rows, place_key, sparse_for, sparse_rows
from sparsevit.compare.run import run_compare
from sparsevit.compare.settings import CompareSettings
from sparsevit.compare.sizes import aligned_below, padding_note, padding_ratio, reduced_sizes
from sparsevit.compare.store import Store
from sparsevit.compare.table import COLUMNS, comparison, csv_text, sparsity_text
from sparsevit.compare.timing import timed
from sparsevit.errors import BudgetUnreachable, ConfigError, DeviceDisturbed
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.space import SearchSpace
from sparsevit.search.steps import Session
from sparsevit.search.verify import macs
from sparsevit.sparsity.config import Genes
from sparsevit.swin.config import SwinConfig
from sparsevit.tasks.files import load_model, save_model
from sparsevit.training.plan import fixed
from sparsevit.training.settings import TrainingSettings
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


# The table, of two seeds with numbers made by hand.

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


# Trainings, searches and scores of a tiny model; what would be measured first is given.

SIZE = (112, 112)
TINY_ROWS = (
    Row("dense", "dense", SIZE),
    Row("R56", "resolution", (56, 56)),
    Row("W0.5", "width", SIZE, 0.5),
    Row("uniform 0.5", "uniform", SIZE, genes=(5, 5, 5), against=("R56", "W0.5")),
    Row("searched (R56)", "searched", SIZE, against=("R56",)),
    Row("searched (W0.5)", "searched", SIZE, against=("W0.5",)),
)
SETTINGS = CompareSettings(
    sizes=((56, 56),),
    widths=(0.5,),
    seeds=1,
    training={"steps": 3, "batch": 2, "accumulate": 1, "learning_rate": 1e-3},
    evolution=EvolutionSettings(population=3, parents=2, generations=1),
    measure_seconds=1.0,
)
ASKED = {
    "dataset": {"path": "builtin:digits", "limit": 4},
    "settings": SETTINGS,
    "input": {"height": SIZE[0], "width": SIZE[1], "threads": 1},
}


@pytest.fixture
def dense(tiny_model, tmp_path: Path) -> Path:
    path = tmp_path / "dense.safetensors"
    save_model(tiny_model, path)
    return path


def planned(folder: Path) -> Path:
    """A folder with a plan as if it had been made there."""
    space = SearchSpace((1, 2), (16, 4))
    steps = {row.name: 2 for row in TINY_ROWS} | {"R56": 4, ADAPTATION: 2}
    plan = Plan(TINY_ROWS, linear_map(space), {"R56": 16.0, "W0.5": 20.0}, steps, {}, ())
    Store(folder).write("plan.json", plan.to_dict())
    return folder


def files(folder: Path) -> dict[str, tuple[int, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


def test_a_comparison_runs_resumes_and_grows(dense: Path, tmp_path: Path) -> None:
    folder, told = planned(tmp_path / "compare"), []
    found = run_compare(
        dense, folder=folder, progress=lambda stage, done, total: told.append(stage), **ASKED
    )
    assert [row["name"] for row in found["rows"]] == [row.name for row in TINY_ROWS]
    assert found == json.loads((folder / "comparison.json").read_text())
    assert [row["training"]["steps"] for row in found["rows"]] == [[2], [4], [2], [4], [4], [4]]
    assert found["rows"][2]["channels"] == [4, 8]
    dense_macs, small, narrow, uniform = (row["macs"] for row in found["rows"][:4])
    assert small < uniform < dense_macs
    assert narrow < dense_macs
    assert {"seed 0, adaptation: training", "seed 0, searched (R56): searching"} < set(told)
    searched = found["rows"][4]["sparsity"][0]
    plan = Plan.from_dict(json.loads((folder / "plan.json").read_text()))
    genes = [round(10 * ratio) for ratio in searched]
    assert plan.latency_map.predict(genes) <= plan.budgets["R56"]
    # A row's weights are there, and are what was scored.
    assert load_model(folder / "seed-0" / "searched-R56.safetensors").adapted == "variance"
    assert load_model(folder / "seed-0" / "W0.5.safetensors").backbone.config.embed_dim == 4

    before = files(folder)
    (folder / "seed-0" / "R56.json").unlink()  # as if it had been stopped before it was scored
    again = run_compare(dense, folder=folder, **ASKED)
    assert again == found
    changed = {name for name, facts in files(folder).items() if before.get(name) != facts}
    assert changed == {"seed-0/R56.json", *(f"comparison.{e}" for e in ("json", "csv", "png"))}

    more = ASKED | {"settings": replace(SETTINGS, seeds=2)}
    grown = run_compare(dense, folder=folder, **more)
    assert [len(row["metric"]["seeds"]) for row in grown["rows"]] == [2] * 6
    assert [row["metric"]["seeds"][0] for row in grown["rows"]] == [
        row["metric"]["seeds"][0] for row in found["rows"]
    ]
    trained = files(folder)["seed-0/dense.safetensors"]
    assert trained == before["seed-0/dense.safetensors"]

    with pytest.raises(ConfigError, match="another comparison: its settings"):
        run_compare(dense, folder=folder, **ASKED | {"settings": replace(SETTINGS, widths=(0.6,))})


def test_a_training_that_was_stopped_goes_on(dense: Path, tmp_path: Path, monkeypatch) -> None:
    from sparsevit.compare import training
    from sparsevit.compare.training import trained

    session = Session(dense, ASKED["dataset"], input=ASKED["input"])
    settings = TrainingSettings(steps=1, batch=2, learning_rate=1e-3)

    def run_to(folder: str, progress=None) -> tuple[bytes, dict[str, Any]]:
        path, spent = trained(
            session,
            "finetune",
            settings,
            3,
            1,
            Store(tmp_path / folder),
            "row",
            (0, 0, 0),
            progress,
        )
        return path.read_bytes(), spent

    whole, spent = run_to("whole")
    assert spent["steps"] == 3
    assert spent["seconds"] > 0
    monkeypatch.setattr(training, "SLICE_SECONDS", 0.0)  # a checkpoint after every step

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_to("halted", stop)
    seen: list[int] = []
    again, spent = run_to("halted", lambda done, total: seen.append(done))
    assert seen == [2, 3]
    assert again == whole
    assert spent["steps"] == 3
    (tmp_path / "whole" / "row.safetensors").unlink()
    assert run_to("whole")[0] == whole  # weights that are gone are made again


def test_steps_are_timed_in_turns_and_nothing_is_trained(dense: Path) -> None:
    small = Session(dense, ASKED["dataset"], input={"height": 56, "width": 56})
    large = Session(dense, ASKED["dataset"], input={"height": 224, "width": 224})
    weights = {k: v.clone() for k, v in large.model.state_dict().items()}
    cases = {
        name: Case(session, fixed(session.sparsity((0, 0, 0))))
        for name, session in (("small", small), ("large", large))
    }
    told: list[tuple[int, int]] = []
    settings = TrainingSettings(steps=1, batch=4, learning_rate=1e-3)
    cost = step_seconds(cases, settings, 0.0, lambda done, total: told.append((done, total)))
    assert 0 < cost["small"] < cost["large"]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert all((weights[k] == v).all() for k, v in large.model.state_dict().items())


def test_macs_are_those_of_the_dense_network_at_each_size(dense: Path) -> None:
    session = Session(dense, ASKED["dataset"], input=ASKED["input"])
    small = Session(dense, ASKED["dataset"], input={"height": 56, "width": 56})
    whole = macs(session, (0, 0, 0))
    assert whole == pytest.approx(4 * macs(small, (0, 0, 0)), rel=1e-3)  # no padding at either
    assert macs(session, (8, 8, 8)) < 0.5 * whole


@pytest.mark.alone
def test_all_places_are_timed_beside_the_first() -> None:
    session, small = (
        Session("builtin:digits", ASKED["dataset"], input={"height": n, "width": n, "threads": 1})
        for n in (336, 112)
    )
    places = [(session, (0,) * 5), (session, (8,) * 5), (small, (0,) * 5)]
    found = timed(places, 3.0, {})
    for scope in ("model", "backbone"):
        whole, sparse, few = found[scope]
        assert whole.ratio == pytest.approx(1.0, abs=0.2)
        assert sparse.ratio < 0.9
        assert few.ratio < 0.5
    assert found["backbone"][0].p50 < found["model"][0].p50


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
