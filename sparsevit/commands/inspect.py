"""sparsevit inspect: what a checkpoint holds."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from sparsevit.commands.common import AsJson


def inspect(
    path: Annotated[str, typer.Argument(help="A checkpoint file, or a folder of Hugging Face's.")],
    as_json: AsJson = False,
) -> None:
    """Says what a checkpoint holds: its Swin (dialect, architecture, what of it is loaded or left, and
    why), and, where there is a head that is known here, its task and its preprocessing."""
    from sparsevit.swin.checkpoints.load import load_backbone
    from sparsevit.tasks.files import checkpoint_path

    model, task = load_backbone(checkpoint_path(path)), _task(path)
    config, report = model.config, model.load_report
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if as_json:
        architecture = config.to_dict() | {"dims": list(config.dims)}
        found = {"architecture": architecture, "parameters": parameters, "task": task}
        typer.echo(json.dumps(report.to_dict() | found, indent=2))
        return
    typer.echo(
        f"Swin: dims {_row(config.dims)}, depths {_row(config.depths)}, heads "
        f"{_row(config.num_heads)}, window {config.window_size}, patch {config.patch_size}, "
        f"{parameters / 1e6:.2f} M parameters."
    )
    typer.echo(str(report))
    if task is not None:
        typer.echo(
            f"With its head: {task['name']}, {len(task['class_names'])} classes, metric "
            f"{task['metric']}. Preprocessing:"
        )
        typer.echo(json.dumps(task["preprocess"]))


def _task(path: str) -> dict[str, Any] | None:
    """What the checkpoint is as a task model; None where it is none."""
    from sparsevit.errors import CheckpointMismatch
    from sparsevit.tasks.files import load_model

    try:
        model = load_model(path)
    except CheckpointMismatch:
        return None
    return {
        "name": model.task,
        "class_names": list(model.class_names),
        "metric": model.metric["name"],
        "preprocess": model.preprocess.to_dict(),
        "adapted": model.adapted,
    }


def _row(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))
