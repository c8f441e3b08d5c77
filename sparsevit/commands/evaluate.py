"""sparsevit evaluate: the metric of a model or of a best config."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from sparsevit.commands.common import (
    AsJson,
    Checkpoint,
    Config,
    DataSet,
    Device,
    Format,
    Height,
    Width,
    image_size,
    training_bar,
)


def evaluate(
    model: Checkpoint,
    dataset: DataSet,
    config: Config = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="val, or a part of it: val:search, val:holdout. Default: the config's, else val."
        ),
    ] = None,
    height: Height = None,
    width: Width = None,
    format: Format = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many images, evenly spread.")] = None,
    holdout: Annotated[float | None, typer.Option(help="Share held out, as in the search.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Scores a model on a split of a data set, with a 95% interval.

    With a config: its preprocessing, precision and split, so that its metric is found again: exactly
    on the kind of device, the threads, limit and hold-out that it was searched with.
    """
    from sparsevit.scoring import score_checkpoint

    given = {"path": dataset, "format": format, "limit": limit, "holdout": holdout}
    with training_bar("evaluating", loss=False) as progress:
        found = score_checkpoint(
            model,
            {name: value for name, value in given.items() if value is not None},
            config,
            split,
            size=image_size(height, width),
            device=device,
            threads=threads,
            progress=lambda done, total: progress(done, total, 0.0),
        )
    typer.echo(json.dumps(found, indent=2) if as_json else _text(found))


def _text(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    lines = [
        f"{found['metric']} {found['value']:.4f} (95% interval {low:.4f} to {high:.4f}) on "
        f"{found['images']} images of {found['split']}"
    ]
    lines += [f"{name} {value:.4f}" for name, value in found["details"].items()]
    if found["stated"] is not None:
        same = "the same" if found["stated"] == found["value"] else f"{found['stated']:.4f}"
        lines.append(f"the config states: {same}")
    return "\n".join(lines)
