"""sparsevit adapt and finetune: training that goes on where it was stopped, alone or by torchrun."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sparsevit.commands.common import Checkpoint, DataSet, Format, Height, Width, image_size

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

Arguments = dict[str, Any]


def _arguments(
    checkpoint: Checkpoint,
    dataset: DataSet,
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
) -> Arguments:
    """The options of both commands as arguments of a TrainingRun."""
    return {
        "checkpoint": checkpoint,
        "dataset": {
            "path": dataset,
            "format": format,
            "train_split": train_split,
            "search_split": search_split,
        },
        "output": output,
        "settings": {
            "epochs": epochs,
            "steps": steps,
            "batch": batch,
            "accumulate": accumulate,
            "learning_rate": learning_rate,
            "precision": precision,
            "augment": augment,
            "threads": threads,
            "seed": seed,
        },
        "size": image_size(height, width),
        "crop": _crop(crop),
        "device": device,
        "resume": resume,
        "restart": restart,
        "frugal": activation_checkpointing,
        "check": check,
        "eval_every": eval_every,
    }


def _crop(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if found is None:
        raise typer.BadParameter(f"--crop is HEIGHTxWIDTH in pixels, such as 512x1024, not {text}")
    return int(found[1]), int(found[2])


def _with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `_arguments` after its own; it is given what they make."""
    shared = signature(_arguments, eval_str=True).parameters
    _, *own = signature(command, eval_str=True).parameters.values()

    @wraps(command)
    def taking_all(**given: Any) -> None:
        arguments = _arguments(**{name: given.pop(name) for name in shared})
        command(arguments, **given)

    # What typer reads. Keywords, since a required option may come after one with a default.
    options = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in (*own, *shared.values())]
    taking_all.__signature__ = signature(taking_all).replace(parameters=options)
    return taking_all


@_with_shared_options
def adapt(
    arguments: Arguments,
    score: Annotated[str | None, typer.Option(help="Window score; default: the library's.")] = None,
) -> None:
    """Sparsity-aware adaptation: one set of weights that serves every config.

    Length and rate are those recommended for the task (docs/training.md) unless given. Stopped in any
    way, the same command goes on where it was.
    """
    from sparsevit.commands.training_run import TrainingRun

    TrainingRun("adapt", **arguments, score=score).train()


@_with_shared_options
def finetune(
    arguments: Arguments,
    config: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="best.json, or a file with `sparsity`."),
    ],
) -> None:
    """Fine-tunes the weights for one config; it writes new weights and a config bound to them.

    Length and rate are those recommended for the task (docs/training.md) unless given. Stopped in any
    way, the same command goes on where it was.
    """
    from sparsevit.commands.training_run import TrainingRun

    TrainingRun("finetune", **arguments, config=config).train()
