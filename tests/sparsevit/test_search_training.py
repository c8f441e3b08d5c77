"""Searches that train, and those that are stopped before: by their dense metric or their budget."""

from __future__ import annotations

import pytest

import sparsevit
from sparsevit import metrics
from sparsevit.errors import BudgetUnreachable, ConfigError, DenseMetricMismatch
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.run import SearchResult, run_search
from sparsevit.search.steps import Session
from sparsevit.training.settings import recommended

pytestmark = pytest.mark.alone
DIGITS = {"path": "builtin:digits", "limit": 16}
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
