"""Comparisons that run: trainings, searches and scores of a tiny model. What would be measured first
is given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsevit.compare.cost import Case, step_seconds
from sparsevit.compare.plan import (
    ADAPTATION,
    Plan,
)
from sparsevit.compare.rows import Row
from sparsevit.compare.run import run_compare
from sparsevit.compare.settings import CompareSettings
from sparsevit.compare.store import Store
from sparsevit.compare.timing import timed
from sparsevit.errors import ConfigError
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.space import SearchSpace
from sparsevit.search.steps import Session
from sparsevit.search.verify import macs
from sparsevit.tasks.files import load_model, save_model
from sparsevit.training.plan import fixed
from sparsevit.training.settings import TrainingSettings
from tests.sparsevit.maps import linear_map

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
