"""The request that a command posts: options that several commands share, and the fields they fill.

Options that are not given are left out: the service fills them in and shows what it filled in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from service.domain.specs import Interpolation, Mode, Precision, TrainingSpec

BUILTIN = "builtin:"

CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT", help="Checkpoint on the service's machine, or builtin:digits."
    ),
]
DatasetArgument = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="Data set on the service's machine, or builtin:digits."),
]


DeviceOption = Annotated[
    str | None, typer.Option("--device", help="Target device: a model name, cpu or cuda.")
]
ScoreOption = Annotated[
    str | None, typer.Option("--score", help="Window score, such as l2 or late.")
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", help="Layout of the data set's folder (default: recognised)."),
]
TrainSplitOption = Annotated[
    str | None, typer.Option("--train-split", help="Split to train on (default: train).")
]
InterpolationOption = Annotated[
    Interpolation | None,
    typer.Option("--interpolation", help="How images are resized (default: the checkpoint's)."),
]
ExpectedMetricOption = Annotated[
    float | None,
    typer.Option(
        "--expected-metric",
        help="What the dense model is known to reach, from 0 to 1; fails early where it does not.",
    ),
]
AdaptOption = Annotated[
    str | None,
    typer.Option(
        "--adapt", help='Adapt before the search: "default", or "epochs=12,learning_rate=1e-5".'
    ),
]
FinetuneOption = Annotated[
    str | None,
    typer.Option(
        "--finetune", help='Fine-tune the winner: "default", or settings such as "epochs=4".'
    ),
]
SearchSplitOption = Annotated[
    str | None, typer.Option("--search-split", help="Split to score candidates on.")
]
ReportSplitOption = Annotated[
    str | None, typer.Option("--report-split", help="Split for the final score.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Use at most this many images.")]
HeightOption = Annotated[
    int | None, typer.Option("--height", help="Image height in pixels (default: the data's).")
]
WidthOption = Annotated[
    int | None, typer.Option("--width", help="Image width in pixels (default: the data's).")
]
SizesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="HxW",
        help="Instead of --height and --width: search at each of these sizes (448x672), up to 4.",
    ),
]
BatchOption = Annotated[
    int | None, typer.Option("--batch", help="Images per forward pass (default: 1).")
]
PrecisionOption = Annotated[
    Precision | None, typer.Option("--precision", help="Number format (default: fp32).")
]
ModeOption = Annotated[
    Mode | None, typer.Option("--mode", help="How the model is executed (default: eager).")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="CPU threads (default: the worker's own number).")
]


def network_fields(
    checkpoint: str,
    dataset: str,
    *,
    device: str | None,
    score: str | None,
    split: dict[str, Any],
    input: dict[str, Any],
    sizes: Sequence[str] = (),
) -> dict[str, Any]:
    """Fields on what is run, on what and how; split and input: their fields, None for not given.
    sizes: of several inputs, such as "448x672"."""
    return {
        "checkpoint": service_path(checkpoint),
        "dataset": given(path=service_path(dataset), **split),
        "input": [given(**input | parse_size(one)) for one in sizes] or given(**input),
        **given(device=device, score=score),
    }


def parse_size(text: str) -> dict[str, int]:
    """ "448x672" -> height and width."""
    found = re.fullmatch(r"\s*(\d{1,5})\s*x\s*(\d{1,5})\s*", text)
    if found is None:
        raise typer.BadParameter("give a height and a width, such as 448x672", param_hint="--size")
    return {"height": int(found[1]), "width": int(found[2])}


def parse_latency(text: str) -> dict[str, Any]:
    """The budget's field of a request: "10ms" -> milliseconds, "60%" -> share of dense."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|%)\s*", text)
    if found is None:
        raise typer.BadParameter(
            "give milliseconds, such as 10ms, or a share of the dense latency, such as 60%",
            param_hint="--latency",
        )
    number, unit = found.groups()
    return {"latency_budget": f"{number}%"} if unit == "%" else {"latency_budget_ms": float(number)}


def parse_training(text: str | None, option: str) -> dict[str, Any] | None:
    """A training's field of a request: "default" -> {}, "epochs=12,learning_rate=1e-5" -> both.

    What each setting may be is the service's to say.
    """
    if text is None:
        return None
    settings = {}
    for part in [] if text.strip() == "default" else text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in TrainingSpec.model_fields or not value:
            raise typer.BadParameter(
                f"give default, or settings such as epochs=12,learning_rate=1e-5; there are "
                f"{', '.join(TrainingSpec.model_fields)}",
                param_hint=option,
            )
        settings[name] = _value(value)
    return settings


def _value(text: str) -> Any:
    """A number, true or false; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def service_path(text: str) -> str:
    """A path as the service takes it: absolute, or the name of something built in."""
    return text if text.startswith(BUILTIN) else str(Path(text).expanduser().absolute())


def given(**fields: Any) -> dict[str, Any]:
    """The fields that were given."""
    return {name: value for name, value in fields.items() if value is not None}
