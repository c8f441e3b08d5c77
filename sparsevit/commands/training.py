"""sparsevit adapt and finetune: training that goes on where it was stopped, alone or by torchrun."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparsevit.commands.common import Checkpoint, DataSet, Format, Height, Width, image_size

if TYPE_CHECKING:
    from sparsevit.training.settings import Kind

Output = Annotated[Path, typer.Option("--output", "-o", help="Where the weights are written.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the data set.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of epochs.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Images of a forward, over all processes.")]
Accumulate = Annotated[int | None, typer.Option(min=1, help="Forwards of an optimiser step.")]
Rate = Annotated[float | None, typer.Option(help="Peak learning rate; the paper's is 1e-5.")]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Of the forward; weights are fp32.")
]
Augment = Annotated[bool | None, typer.Option(help="Whether images are varied.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads that read images.")]
Seed = Annotated[
    int | None, typer.Option(min=0, help="The same seed and threads give the same weights.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda:0; under torchrun cpu or cuda.")]
Crop = Annotated[
    str | None, typer.Option(help="HxW: train on parts of this size; default: the whole size.")
]
TrainSplit = Annotated[str, typer.Option(help="Split of the data set to train on.")]
SearchSplit = Annotated[str, typer.Option(help="Split that --eval-every scores on.")]
EvalEvery = Annotated[
    int | None, typer.Option(min=1, help="Steps between scores on the search split.")
]
Resume = Annotated[
    Path | None, typer.Option("--checkpoint", help="Where a stopped run goes on; beside OUTPUT.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew, whatever was stopped.")]
Frugal = Annotated[
    bool, typer.Option("--activation-checkpointing", help="Less memory for a third more time.")
]
Check = Annotated[bool, typer.Option(help="Look at every training file before the first step.")]

# The arguments that are fields of TrainingSettings.
SETTINGS = (
    "epochs",
    "steps",
    "batch",
    "accumulate",
    "learning_rate",
    "precision",
    "augment",
    "threads",
    "seed",
)


def adapt(
    checkpoint: Checkpoint,
    dataset: DataSet,
    output: Output,
    epochs: Epochs = None,
    steps: Steps = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    learning_rate: Rate = None,
    precision: Precision = None,
    score: Annotated[str | None, typer.Option(help="Window score; default: the library's.")] = None,
    height: Height = None,
    width: Width = None,
    crop: Crop = None,
    format: Format = None,
    train_split: TrainSplit = "train",
    search_split: SearchSplit = "val",
    eval_every: EvalEvery = None,
    augment: Augment = None,
    threads: Threads = None,
    seed: Seed = None,
    device: Device = "cpu",
    resume: Resume = None,
    restart: Restart = False,
    activation_checkpointing: Frugal = False,
    check: Check = True,
) -> None:
    """Sparsity-aware adaptation: one set of weights that serves every config.

    Length and rate are those recommended for the task (docs/training.md) unless given. Stopped in any
    way, the same command goes on where it was.
    """
    _train("adapt", locals())


def finetune(
    checkpoint: Checkpoint,
    dataset: DataSet,
    config: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="best.json, or a file with `sparsity`."),
    ],
    output: Output,
    epochs: Epochs = None,
    steps: Steps = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    learning_rate: Rate = None,
    precision: Precision = None,
    height: Height = None,
    width: Width = None,
    crop: Crop = None,
    format: Format = None,
    train_split: TrainSplit = "train",
    search_split: SearchSplit = "val",
    eval_every: EvalEvery = None,
    augment: Augment = None,
    threads: Threads = None,
    seed: Seed = None,
    device: Device = "cpu",
    resume: Resume = None,
    restart: Restart = False,
    activation_checkpointing: Frugal = False,
    check: Check = True,
) -> None:
    """Fine-tunes the weights for one config; it writes new weights and a config bound to them.

    Length and rate are those recommended for the task (docs/training.md) unless given. Stopped in any
    way, the same command goes on where it was.
    """
    _train("finetune", locals())


def _train(kind: Kind, given: Mapping[str, Any]) -> None:
    """given: the arguments of the command by their names."""
    from sparsevit.commands.training_run import TrainingRun

    splits = {name: given[name] for name in ("format", "train_split", "search_split")}
    TrainingRun(
        kind,
        given["checkpoint"],
        {"path": given["dataset"]} | splits,
        given["output"],
        {name: given[name] for name in SETTINGS},
        score=given.get("score"),
        config=given.get("config"),
        size=image_size(given["height"], given["width"]),
        crop=_crop(given["crop"]),
        device=given["device"],
        resume=given["resume"],
        restart=given["restart"],
        frugal=given["activation_checkpointing"],
        check=given["check"],
        eval_every=given["eval_every"],
    ).train()


def _crop(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if found is None:
        raise typer.BadParameter(f"--crop is HEIGHTxWIDTH in pixels, such as 512x1024, not {text}")
    return int(found[1]), int(found[2])
