"""What the parts of a search say of a caller's model, data and map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sparsevit.data.digits import DigitCanvases
from sparsevit.errors import DatasetError
from sparsevit.search import choices
from sparsevit.search.evolution import Evaluation, EvolutionSettings
from sparsevit.search.run import run_search
from sparsevit.search.space import SearchSpace
from sparsevit.search.steps import Session
from sparsevit.tasks.files import save_model
from tests.sparsevit.maps import linear_map

pytestmark = pytest.mark.alone
DIGITS = {"path": "builtin:digits", "limit": 16}


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
