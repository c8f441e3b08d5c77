"""The in-process search, end to end, on the shipped supernet and real measurements."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import sparsevit
from sparsevit import metrics
from sparsevit.data.digits import DigitCanvases
from sparsevit.errors import BudgetUnreachable, ConfigError, DatasetError, DenseMetricMismatch
from sparsevit.search import choices
from sparsevit.search.evolution import Evaluation, EvolutionSettings
from sparsevit.search.run import SearchResult, run_search
from sparsevit.search.space import SearchSpace
from sparsevit.search.steps import Session
from sparsevit.sparsity.config import kept_windows
from sparsevit.tasks.files import save_model
from sparsevit.training.settings import recommended
from tests.sparsevit.maps import linear_map

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


TRAINING = {"steps": 2, "batch": 2, "accumulate": 1, "warmup": 0, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def tuned() -> SearchResult:
    return run_search(
        "builtin:digits",
        DIGITS,
        latency_budget_ms=60_000.0,
        settings=EvolutionSettings(population=3, parents=2, generations=1),
        input={"threads": 1, "height": 112, "width": 112},
        adapt=TRAINING,
        finetune=recommended("semantic_segmentation", "finetune").updated(TRAINING),
        measure_seconds=10,
    )


def test_a_search_that_trains_hands_out_the_weights_it_measured(tuned, tmp_path) -> None:
    config = tuned.save(tmp_path)
    model = sparsevit.load_model(tmp_path / "weights.safetensors")
    model.set_sparsity(sparsevit.load_config(config))
    weights = tuned.document["weights"]
    assert weights == {
        "sha256": model.weights_sha256,
        "source": "finetuned",
        "dialect": model.dialect,
    }
    assert weights["sha256"] != sparsevit.load_model("builtin:digits").weights_sha256
    assert tuned.document["receipt"] in tuned.receipts
    before = {point["receipt"] for point in tuned.front if point["winner"]}
    assert before < set(tuned.receipts)
    assert tuned.document["receipt"] not in before


def test_after_fine_tuning_the_metric_is_the_new_weights(tuned, tmp_path) -> None:
    from sparsevit.evaluate import evaluate

    tuned.save(tmp_path)
    document = tuned.document
    session = Session(
        tmp_path / "weights.safetensors",
        DIGITS,
        input=document["input"],
        preprocess=document["preprocess"],
    )
    genes = sparsevit.SparsityConfig.from_dict(document).genes
    for data, found in (
        (session.splits.report, document["metric"]),
        (session.splits.search, document["metric"]["search"]),
    ):
        (states,) = evaluate(session.model, [genes], document["score"], data, range(len(data)))
        metric = session.model.metric
        assert metrics.value(metrics.merge(states, metric), metric) == found["value"]
    winner = next(point for point in tuned.front if point["winner"])
    assert winner["genes"] == list(genes)
    assert set(document["metric"]["before_finetune"]) == {"value", "interval"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp16"}, "use bf16 or fp32 on a CPU"),
        ({"steps": 10**9}, "at most 10000000"),
        ({"epochs": 1e300}, "at most 10000000"),
    ],
)
@pytest.mark.parametrize("kind", ["adapt", "finetune"])
def test_a_training_that_cannot_be_is_refused_by_the_inspection(kind, settings, message) -> None:
    session = Session("builtin:digits", DIGITS, input={"height": 64, "width": 64})
    with pytest.raises(ConfigError, match=message):
        session.inspect(**{kind: settings})


def test_an_impossible_budget_trains_nothing() -> None:
    stages: list[str] = []
    with pytest.raises(BudgetUnreachable):
        run_search(
            "builtin:digits",
            DIGITS,
            latency_budget_ms=0.01,
            input={"height": 112, "width": 112, "threads": 1},
            adapt=TRAINING,
            measure_seconds=2,
            progress=lambda stage, done, total: stages.append(stage),
        )
    assert set(stages) == {"calibrate"}


class TestExpectedDenseMetric:
    def session(self, expected: float) -> Session:
        preprocess = {"expected_dense_metric": expected}
        return Session("builtin:digits", DIGITS, input={"threads": 1}, preprocess=preprocess)

    def test_what_is_found_is_told(self) -> None:
        session = self.session(0.9)
        data, metric = session.splits.search, session.model.metric
        (states,) = session.states(data, [(0, 0, 0, 0, 0)], range(len(data)))
        value = metrics.value(metrics.merge(states, metric), metric)
        session.expected_dense_metric = value
        found = session.inspect()["dense_metric"]
        assert (found["value"], found["expected"]) == (value, value)
        assert (found["images"], found["split"]) == (16, "search")
        low, high = found["interval"]
        assert low < value < high
        # As far off as twice half of the interval, or 2 points, may be chance.
        room = max(0.02, high - low)
        for expected, fits in ((value - 0.99 * room, True), (value - 1.01 * room, False)):
            session.expected_dense_metric = expected
            if fits:
                session.inspect()
            else:
                with pytest.raises(DenseMetricMismatch):
                    session.inspect()

    def test_a_wrong_set_up_is_told_with_both_numbers(self) -> None:
        preprocess = {"expected_dense_metric": 0.93, "mean": [5.0, 5.0, 5.0]}
        session = Session("builtin:digits", DIGITS, preprocess=preprocess)
        with pytest.raises(DenseMetricMismatch, match=r"0\.930 was expected") as caught:
            session.inspect()
        for text in ("search split", "mean and std", "channel order", "resize", "labels"):
            assert text in str(caught.value)

    def test_a_percentage_is_no_share(self) -> None:
        with pytest.raises(ConfigError, match="from 0 to 1"):
            self.session(93.0).inspect()


def test_a_callers_model_stays_as_it_was(tiny_model) -> None:
    before = tiny_model.preprocess
    session = Session(tiny_model, DIGITS, input={"precision": "bf16", "height": 112, "width": 112})
    session.evaluate([(8, 8, 8)], 0, 1)
    assert next(tiny_model.parameters()).dtype == torch.float32
    assert tiny_model.preprocess is before
    assert tiny_model.backbone.executed_windows is None


def test_evaluation_runs_at_the_threads_settled_at_inspection(tiny_model) -> None:
    """Whatever a worker's own count is: here it is 1."""
    shape = {"height": 112, "width": 112}
    session = Session(tiny_model, DIGITS, input=shape, evaluation_threads=2)
    assert session.inspect()["evaluation_threads"] == 2
    seen: list[int] = []
    session.model.backbone.patch_embed.register_forward_pre_hook(
        lambda *_: seen.append(torch.get_num_threads())
    )
    session.evaluate([(0, 0, 0)], 0, 1)
    assert set(seen) == {2}
    assert torch.get_num_threads() == 1


def test_the_digits_set_has_splits_of_its_own() -> None:
    with pytest.raises(DatasetError, match="own search and report splits"):
        Session("builtin:digits", {"path": "builtin:digits", "search_split": "nonsense"})


def test_the_map_says_where_sparsity_does_not_pay() -> None:
    swin = SearchSpace((1, 1), (256, 64))
    latency_map = linear_map(swin)
    assert choices.map_verdicts(latency_map) == ()
    useless = replace(latency_map, pair_ms=((8.0,) * 9, (7.0,) * 9))
    assert choices.map_verdicts(useless) == ("SPARSITY_DOES_NOT_PAY_HERE",)
    little = replace(latency_map, pair_ms=((8.0,) * 8 + (7.2,), (7.0,) * 9))
    assert choices.map_verdicts(little) == ()  # 4% of dense
    noisy = replace(little, accuracy={"noise_floor": 0.03})
    assert choices.map_verdicts(noisy) == ("SPARSITY_DOES_NOT_PAY_HERE",)
    heavy = replace(latency_map, fixed_ms=20.0, dense_ms=33.0)
    assert choices.map_verdicts(heavy) == ("HEAD_DOMINATES",)


def test_finalists_are_the_best_and_one_that_is_safely_fast() -> None:
    history = [
        Evaluation((i,), 0, metric, ms)
        for i, (metric, ms) in enumerate([(0.9, 10.0), (0.8, 9.9), (0.7, 9.8), (0.6, 9.0)])
    ]
    assert choices.finalists(history, 10.0) == [(0,), (1,), (2,), (3,)]


def test_a_users_own_images_and_checkpoint(tiny_model, tmp_path) -> None:
    """The folder layout, a checkpoint of one's own, bf16, and a resize."""
    source = DigitCanvases("search", 5, 112)
    for kind in ("images", "annotations"):
        (tmp_path / kind / "val").mkdir(parents=True)
    for i in range(len(source)):
        image, labels = source.sample(i)
        Image.fromarray(image).save(tmp_path / "images" / "val" / f"{i}.png")
        full = np.kron(labels, np.ones((4, 4), np.uint8))
        Image.fromarray(full).save(tmp_path / "annotations" / "val" / f"{i}.png")
    save_model(tiny_model, tmp_path / "mine.safetensors")
    found = run_search(
        tmp_path / "mine.safetensors",
        tmp_path,
        latency_budget_ms=60_000.0,
        settings=EvolutionSettings(population=3, parents=2, generations=1),
        input={"threads": 1, "height": 84, "width": 140, "precision": "bf16"},
        measure_seconds=10,
    )
    assert found.document["preprocess"]["resize"] == [84, 140]
    assert found.document["input"]["precision"] == "bf16"
    assert found.document["metric"]["split"] == "val:holdout"
