"""sparsevit bench: the latency of a config on this device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from sparsevit.commands.common import AsJson, Checkpoint, Device, training_bar


def bench(
    model: Checkpoint,
    config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Time this config; default: uniform."),
    ] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per forward.")] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Number format.")
    ] = None,
    mode: Annotated[
        Literal["eager", "compiled", "cuda_graph"] | None, typer.Option(help="How it is executed.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Times a model on this device: dense beside a config, interleaved, with intervals.

    Size, batch, precision, mode and threads are the config's unless given; without a config
    448 x 448, batch 1, fp32, eager and torch's own threads.
    """
    from sparsevit.latency.bench import bench_model

    shape = {"height": height, "width": width, "batch": batch}
    with training_bar("timing", loss=False) as progress:
        result = bench_model(
            model,
            config,
            input=shape | {"precision": precision, "mode": mode, "threads": threads},
            device=device,
            progress=lambda done, total: progress(done, total, 0.0),
        )
    typer.echo(json.dumps(result, indent=2)) if as_json else _print_bench(result)


def _print_bench(result: dict[str, Any]) -> None:
    shape = result["input"]
    table = Table(
        title=f"{result['device']['model']}, {shape['batch']} x {shape['height']} x "
        f"{shape['width']}, {shape['precision']}, {shape['mode']}, {shape['threads']} threads"
    )
    for name in ("config", "ms", "99% interval", "of dense", "images/s", "windows by block"):
        table.add_column(name, justify="left" if name == "config" else "right")
    for row in result["rows"]:
        low, high = row["interval"]
        kept = "  ".join(" ".join(map(str, stage)) for stage in row["executed_windows"])
        flag = " (disturbed)" if row["disturbed"] else ""
        table.add_row(
            row["name"] + flag,
            f"{row['ms']:.2f}",
            f"{low:.2f} - {high:.2f}",
            f"{100 * row['ratio']:.1f}%",
            f"{row['images_per_second']:.1f}",
            kept,
        )
    Console().print(table)
