"""The library's commands: inspect, adapt, finetune, bench. They need no server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

Checkpoint = Annotated[str, typer.Argument(help="A checkpoint's path, or builtin:digits.")]
DataSet = Annotated[
    str, typer.Argument(help="Folder with images/SPLIT and annotations/SPLIT, or builtin:digits.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where the weights are written.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps.")]
Batch = Annotated[int, typer.Option(min=1, help="Images per step.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed and threads give the same weights.")]
Device = Annotated[str, typer.Option(help="cpu or cuda:0.")]
Height = Annotated[int | None, typer.Option(min=32, help="Resize to it; default: as they are.")]
Width = Annotated[int | None, typer.Option(min=32, help="Resize to it; default: as they are.")]
TrainSplit = Annotated[str, typer.Option(help="Split of the data set to train on.")]


def register(app: typer.Typer) -> None:
    """Adds the library's commands to the command line."""
    example = "Example: sparsevit "
    app.command(epilog=example + "inspect swin_tiny_patch4_window7_224.pth --json")(inspect)
    app.command(epilog=example + "adapt model.safetensors /data/city -o supernet.safetensors")(
        adapt
    )
    app.command(
        epilog=example + "finetune supernet.safetensors /data/city --config best.json -o "
        "tuned.safetensors"
    )(finetune)
    app.command(epilog=example + "bench model.safetensors --config best.json --threads 1")(bench)


def inspect(
    path: Annotated[str, typer.Argument(help="A checkpoint file, or a folder of Hugging Face's.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
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


def adapt(
    checkpoint: Checkpoint,
    dataset: DataSet,
    output: Output,
    steps: Steps = 1000,
    batch: Batch = 4,
    learning_rate: Annotated[float, typer.Option(help="Peak rate; the paper's is 1e-5.")] = 1e-5,
    score: Annotated[str | None, typer.Option(help="Window score; default: the library's.")] = None,
    train_split: TrainSplit = "train",
    height: Height = None,
    width: Width = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Sparsity-aware adaptation: one set of weights that serves every config."""
    from sparsevit.sparsity.config import DEFAULT_SCORE
    from sparsevit.sparsity.score import get_score
    from sparsevit.tasks.files import save_model
    from sparsevit.training.adapt import adapt as train
    from sparsevit.training.loop import Schedule

    name = get_score(score or DEFAULT_SCORE).name
    model, data = _open(checkpoint, dataset, train_split, (height, width), device)
    schedule = Schedule(steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
    with training_bar(f"adapting ({name})") as progress:
        train(model, data, schedule, name, progress)
    typer.echo(f"wrote {output} (sha256 {save_model(model, output)[:12]})")


def finetune(
    checkpoint: Checkpoint,
    dataset: DataSet,
    config: Annotated[Path, typer.Option(help="best.json, or a file with `sparsity`.")],
    output: Output,
    steps: Steps = 3000,
    batch: Batch = 4,
    learning_rate: Annotated[float, typer.Option(help="Peak rate.")] = 1e-5,
    train_split: TrainSplit = "train",
    height: Height = None,
    width: Width = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Fine-tunes the weights for one config; it writes new weights and a config bound to them."""
    from sparsevit.deploy import load_config
    from sparsevit.tasks.files import save_model
    from sparsevit.training.finetune import finetune as train
    from sparsevit.training.loop import Schedule

    chosen = load_config(config)
    model, data = _open(checkpoint, dataset, train_split, (height, width), device)
    chosen.check_weights(model.weights_sha256)
    schedule = Schedule(steps=steps, batch=batch, learning_rate=learning_rate, seed=seed)
    with training_bar("fine-tuning") as progress:
        train(model, data, schedule, chosen.sparsity, progress)
    sha256 = save_model(model, output)
    bound = output.with_suffix(".json")
    document = {"weights": {"sha256": sha256, "source": "finetuned", "dialect": "sparsevit"}}
    bound.write_text(json.dumps(document | chosen.sparsity.to_dict(), indent=2) + "\n")
    typer.echo(f"wrote {output} (sha256 {sha256[:12]}) and its config {bound}")


def bench(
    model: Checkpoint,
    config: Annotated[Path | None, typer.Option(help="Time this config; default: uniform.")] = None,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
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


def _open(
    checkpoint: str,
    dataset: str,
    train_split: str,
    size: tuple[int | None, int | None],
    device: str,
) -> tuple[Any, Any]:
    from sparsevit.data.base import Resized
    from sparsevit.data.sources import open_training
    from sparsevit.tasks.files import load_model

    height, width = size
    if (height is None) != (width is None):
        raise typer.BadParameter("give --height and --width together, or neither")
    model = load_model(checkpoint, device)
    data = open_training({"path": dataset, "train_split": train_split}, model)
    return model, data if height is None else Resized(data, (height, width))


@contextmanager
def training_bar(what: str, loss: bool = True) -> Iterator[Any]:
    """A progress bar on stderr with count, time spent and time left."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int, value: float) -> None:
            text = f"{what}, loss {value:.3f}" if loss else what
            bar.update(task, completed=done, total=total, description=text)

        yield update
