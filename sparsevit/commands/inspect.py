"""sparsevit inspect: what a checkpoint holds."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sparsevit.commands.common import AsJson


def inspect(
    path: Annotated[str, typer.Argument(help="A checkpoint file, or a folder of Hugging Face's.")],
    as_json: AsJson = False,
) -> None:
    """Says what Swin a checkpoint holds: dialect, architecture, what is loaded or left, and why."""
    from sparsevit.swin.checkpoints.load import load_backbone
    from sparsevit.tasks.files import checkpoint_path

    model = load_backbone(checkpoint_path(path))
    config, report = model.config, model.load_report
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if as_json:
        architecture = config.to_dict() | {"dims": list(config.dims)}
        found = {"architecture": architecture, "parameters": parameters}
        typer.echo(json.dumps(report.to_dict() | found, indent=2))
        return
    typer.echo(
        f"Swin: dims {_row(config.dims)}, depths {_row(config.depths)}, heads "
        f"{_row(config.num_heads)}, window {config.window_size}, patch {config.patch_size}, "
        f"{parameters / 1e6:.2f} M parameters."
    )
    typer.echo(str(report))


def _row(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))
