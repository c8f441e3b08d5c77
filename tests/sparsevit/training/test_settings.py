from __future__ import annotations

import json

import pytest

from sparsevit.errors import ConfigError
from sparsevit.training.settings import TrainingSettings, recommended


def test_settings_travel_as_json() -> None:
    settings = TrainingSettings(epochs=1.5, schedule="step", drops=(0.5,), clip=None, threads=3)
    document = json.loads(json.dumps(settings.to_dict()))
    assert TrainingSettings.from_dict(document) == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of epochs and steps"),
        ({"epochs": 1, "steps": 1}, "one of epochs and steps"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": True}, "steps is True"),
        ({"epochs": float("nan")}, "epochs is nan"),
        ({"epochs": "12"}, "epochs is '12'"),
        ({"steps": 1, "batch": 1.5}, "batch is 1.5"),
        ({"steps": 1, "accumulate": 0}, "accumulate is 0"),
        ({"steps": 1, "learning_rate": 0}, "learning_rate is 0"),
        ({"steps": 1, "weight_decay": -1}, "weight_decay is -1"),
        ({"steps": 1, "clip": 0}, "clip is 0"),
        ({"steps": 1, "schedule": "linear"}, "one of cosine, step"),
        ({"steps": 1, "drops": 0.5}, "drops is 0.5"),
        ({"steps": 1, "drops": ["x"]}, "drops is 'x'"),
        ({"steps": 1, "precision": "int8"}, "one of fp32, bf16, fp16"),
        ({"steps": 1, "augment": 1}, "augment is 1"),
        ({"steps": 1, "threads": 0}, "threads is 0"),
        ({"steps": 1, "seed": -1}, "seed is -1"),
        ({"steps": 1, "rate": 1}, "no setting 'rate'"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingSettings.from_dict(given)


def test_the_released_schedule_drops_tenfold_at_its_epochs() -> None:
    settings = recommended("instance_segmentation", "finetune")
    steps = settings.steps_over(1600)
    assert (settings.epochs, settings.step_images, steps) == (36, 16, 3600)
    rates = {epoch: settings.rate(epoch * 100, steps) for epoch in (26, 27, 32, 33, 35)}
    assert rates[26] == pytest.approx(1e-5)
    assert rates[27] == rates[32] == pytest.approx(1e-6)
    assert rates[33] == rates[35] == pytest.approx(1e-7)
    adaptation = recommended("instance_segmentation", "adapt")
    steps = adaptation.steps_over(1600)
    assert steps == 1200
    assert [adaptation.rate(100 * epoch, steps) for epoch in (7, 8, 11)] == pytest.approx(
        [1e-5, 1e-6, 1e-7]
    )


@pytest.mark.parametrize(
    "task",
    [
        "classification",
        "semantic_segmentation",
        "instance_segmentation",
        "detection_3d",
        "another",
    ],
)
def test_every_task_has_recommended_settings(task: str) -> None:
    assert recommended(task, "adapt").epochs == 12
    assert recommended(task, "adapt").learning_rate == 1e-5
    assert TrainingSettings.from_dict(recommended(task, "finetune").to_dict())
    with pytest.raises(ConfigError, match="one of adapt, finetune"):
        recommended(task, "train")


def test_the_warm_up_of_a_short_training_is_short() -> None:
    long, short = (TrainingSettings(steps=n, warmup=1000, schedule="step") for n in (20000, 100))
    assert long.rate(499, 20000) == pytest.approx(0.5 * 1e-5)
    assert [short.rate(step, 100) for step in (4, 9, 10)] == pytest.approx([5e-6, 1e-5, 1e-5])


def test_a_length_replaces_the_other() -> None:
    settings = recommended("classification", "adapt")
    assert settings.updated({"steps": 5, "batch": None}).epochs is None
    assert settings.updated({"steps": 5}).updated({"epochs": 2}).steps is None
    assert settings.updated({"batch": 3}).epochs == 12
    assert settings.updated({"epochs": 0.001}).steps_over(10) == 1
