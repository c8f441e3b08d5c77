"""The in-process search, end to end, on the shipped supernet and real measurements."""

from __future__ import annotations

import json

import pytest
import torch

import sparsevit
from sparsevit import metrics
from sparsevit.errors import BudgetUnreachable, ConfigError
from sparsevit.search import choices
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.run import SearchResult, run_search
from sparsevit.search.steps import Session
from sparsevit.sparsity.config import kept_windows

pytestmark = pytest.mark.alone
SETTINGS = EvolutionSettings(population=6, parents=3, generations=2, seed=1)
DIGITS = {"path": "builtin:digits", "limit": 16}


@pytest.fixture(scope="module")
def result() -> SearchResult:
    # Any latency is within this budget: what is tested here is the way, not this machine's speed.
    return run_search(
        "builtin:digits",
        DIGITS,
        latency_budget_ms=60_000.0,
        settings=SETTINGS,
        input={"threads": 1, "height": 224, "width": 224},
        measure_seconds=10,  # at most: a busy machine needs it
    )


def test_the_documents_fit_together(result: SearchResult) -> None:
    document = result.document
    assert document["weights"]["sha256"] == sparsevit.load_model("builtin:digits").weights_sha256
    assert document["latency_ms"]["interval"][1] <= document["latency_ms"]["budget"]
    assert document["metric"]["split"] == "report"
    assert document["metric"]["search"]["split"] == "search"
    assert document["macs"]["value"] <= document["macs"]["dense"]
    assert document["receipt"] in result.receipts
    assert document["receipt"] == next(p["receipt"] for p in result.front if p["winner"])
    winners = [point for point in result.front if point["winner"]]
    assert [point["sparsity"] for point in winners] == [document["sparsity"]]
    for name in ("pareto.png", "windows.png", "latency.png"):
        assert result.artefacts[name].startswith(b"\x89PNG")


def test_every_candidate_is_evaluated_once_and_feasible(result: SearchResult) -> None:
    windows = (64, 16, 4)
    keys = {
        tuple(kept_windows(windows[(0, 1, 2, 2, 2)[i]], g) for i, g in enumerate(e.genes))
        for e in result.evaluations
    }
    assert len(keys) == len(result.evaluations) == 12
    budget = result.document["latency_ms"]["budget"]
    assert all(e.latency_ms <= budget for e in result.evaluations)


def test_the_saved_config_runs_with_exactly_the_windows_it_states(
    result: SearchResult, tmp_path
) -> None:
    path = result.save(tmp_path)
    model = sparsevit.load_model("builtin:digits")
    model.set_sparsity(sparsevit.load_config(path))
    counted: list[int] = []
    for stage in model.backbone.layers:
        for block in stage.blocks:
            block.attn.register_forward_pre_hook(lambda _, a: counted.append(a[0].shape[0] // 49))
    with torch.no_grad():
        model(torch.randn(1, 3, 224, 224))
    assert model.preprocess.resize == (224, 224)
    stated = json.loads(path.read_text())["kept_windows"]
    assert counted == [count for stage in stated for count in stage]


def test_the_metric_of_a_downloaded_config_is_reproduced_exactly(result: SearchResult) -> None:
    document = result.document
    session = Session(
        "builtin:digits", DIGITS, input=document["input"], preprocess=document["preprocess"]
    )
    from sparsevit.evaluate import evaluate

    genes = sparsevit.SparsityConfig.from_dict(document).genes
    data = session.splits.report
    states = evaluate(session.model, [genes], document["score"], data, range(len(data)))
    assert (
        metrics.value(metrics.merge(states[0], session.model.metric), session.model.metric)
        == document["metric"]["value"]
    )


def test_the_metric_of_a_saved_config_is_found_again_by_its_file_alone(
    result: SearchResult, tmp_path
) -> None:
    from sparsevit.scoring import score_checkpoint

    stated, best = result.document["metric"], result.save(tmp_path)
    for split, metric in ((None, stated), ("search", stated["search"])):
        found = score_checkpoint("builtin:digits", DIGITS, best, split)
        assert found["value"] == found["stated"] == metric["value"]
        assert found["interval"] == metric["interval"]


def test_the_same_seed_proposes_the_same_against_the_same_map(result: SearchResult) -> None:
    from sparsevit.search.evolution import propose

    inspection = {"architecture": {"pairs": [1, 1, 3]}, "windows": [64, 16, 4]}
    space = choices.search_space(inspection, None)
    budget = result.document["latency_ms"]["budget"]
    for generation in (0, 1):
        again = propose(
            space, result.latency_map, budget, "model", SETTINGS, result.evaluations, generation
        )
        mine = [e.genes for e in result.evaluations if e.generation == generation]
        assert [tuple(genes) for genes in again] == mine


def test_an_impossible_budget_names_the_nearest_before_anything_is_evaluated() -> None:
    stages: list[str] = []
    with pytest.raises(BudgetUnreachable, match="nearest possible budget") as caught:
        run_search(
            "builtin:digits",
            DIGITS,
            latency_budget_ms=0.01,
            input={"height": 112, "width": 112, "threads": 1},
            measure_seconds=2,
            progress=lambda stage, done, total: stages.append(stage),
        )
    assert caught.value.nearest_ms > 0.01
    assert set(stages) == {"calibrate"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "give one of"),
        ({"latency_budget_ms": 1.0, "latency_budget": "50%"}, "give one of"),
        ({"latency_budget": "50%", "strategy": "annealing"}, "strategy is one of"),
        ({"latency_budget": "50%", "input": {"hight": 3}}, "no field 'hight'"),
        ({"latency_budget": "50%", "input": {"precision": "int8"}}, "one of fp32"),
        ({"latency_budget": "50%", "preprocess": {"means": [1, 1, 1]}}, "preprocess"),
        ({"latency_budget": "50%", "score": "nonsense"}, "no score"),
        ({"latency_budget": "50%", "adapt": {"epoch": 1}}, "no setting 'epoch'"),
        ({"latency_budget": "50%", "finetune": {"steps": 0}}, "steps"),
    ],
)
def test_calls_that_cannot_be_say_why(arguments: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run_search("builtin:digits", DIGITS, **arguments)


@pytest.mark.parametrize("budget", ["sixty", "0%", "120%", "60", "nan%", "%"])
def test_budgets_that_are_no_share_are_refused(budget: str) -> None:
    with pytest.raises(ConfigError, match="budget"):
        choices.parse_budget(budget, 10.0)


def attention_and_linear_macs(kept: list[list[int]], dims: tuple[int, ...]) -> int:
    """Blocks of the digits network at 224 px, by hand: qkv, proj, MLP, and both attention products."""
    per_window = [49 * (3 + 1 + 8) * d * d + 2 * 49 * 49 * d for d in dims]
    return sum(sum(blocks) * macs for blocks, macs in zip(kept, per_window, strict=True))


def test_macs_count_attention_too(result: SearchResult) -> None:
    document, dims = result.document, (24, 48, 96)
    dense = [[64] * 2, [16] * 2, [4] * 6]
    saved = attention_and_linear_macs(dense, dims) - attention_and_linear_macs(
        document["kept_windows"], dims
    )
    assert document["macs"]["dense"] - document["macs"]["value"] == saved


def test_every_measured_config_has_a_receipt_and_others_no_latency(result: SearchResult) -> None:
    measured = [point for point in result.front if point["measured"]]
    assert len(measured) >= 2
    for point in result.front:
        assert (point["latency_ms"] is None) == (not point["measured"])
        assert (point["receipt"] in result.receipts) == point["measured"]
        assert point["split"] == "search"
    ms = [point["latency_predicted"] for point in result.front if point["on_front"]]
    metric = [point["metric"] for point in result.front if point["on_front"]]
    assert ms == sorted(ms)
    assert metric == sorted(metric)


def test_two_inputs_are_searched_and_one_wins() -> None:
    sizes = [{"height": 112, "width": 112}, {"height": 56, "width": 112}]
    found = run_search(
        "builtin:digits",
        DIGITS,
        latency_budget_ms=60_000.0,
        settings=EvolutionSettings(population=3, parents=2, generations=1),
        input=[size | {"threads": 1} for size in sizes],
        measure_seconds=10,
    )
    assert [search.input["height"] for search in found.searches] == [112, 56]
    assert [search.stop for search in found.searches] == ["generations", "generations"]
    assert [len(search.evaluations) for search in found.searches] == [3, 3]
    assert len(found.evaluations) == 6
    for search in found.searches:
        assert search.latency_map.facts["input"]["height"] == search.input["height"]
        for one in search.evaluations:
            assert one.latency_ms == search.latency_map.predict(one.genes)
    (winner,) = (point for point in found.front if point["winner"])
    assert winner["input"] == found.document["input"]
    best = max(point["metric"] for point in found.front if point["measured"])
    assert winner["metric"] == best == found.document["metric"]["search"]["value"]
    assert found.latency_map.facts["input"]["height"] == found.document["input"]["height"]
    assert {point["receipt"] for point in found.front if point["measured"]} <= set(found.receipts)
    assert set(found.artefacts) == {"pareto.png", "windows.png", "latency.png"}
    assert all(png.startswith(b"\x89PNG") for png in found.artefacts.values())
