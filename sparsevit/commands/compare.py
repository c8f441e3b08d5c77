"""sparsevit compare: sparse models beside smaller dense ones, as in the paper's tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sparsevit.commands.common import (
    AsJson,
    Checkpoint,
    DataSet,
    Device,
    Format,
    Height,
    Width,
    image_size,
)

NARROWEST = 108  # columns of the table on a terminal, or where there is none
SHOWN = 8  # other numbers of a metric beside its own
QUICK = {"steps": 4, "population": 4, "parents": 2, "generations": 1, "seeds": 1, "seconds": 2.0}


def compare(
    model: Checkpoint,
    dataset: DataSet,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder: table, figure, all that is trained.")
    ],
    resolution: Annotated[
        list[str] | None,
        typer.Option(help="HxW, or one side: a dense row; default: sizes without padding."),
    ] = None,
    narrow: Annotated[
        list[float] | None,
        typer.Option(help="Share of the channels: a dense row; default: .75 and .5."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each row; 3.")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Training of the dense row; others get its time.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="As --epochs, in steps.")] = None,
    train_batch: Annotated[int | None, typer.Option(min=1, help="Images of a forward.")] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Forwards of a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak, for every row.")] = None,
    schedule: Annotated[
        Literal["cosine", "step"] | None, typer.Option(help="Of the rate; default: the task's.")
    ] = None,
    adapt_share: Annotated[
        float, typer.Option(help="Of a sparse row's time, what its adaptation takes.")
    ] = 0.5,
    population: Annotated[int | None, typer.Option(min=1, help="Of each search; 100.")] = None,
    generations: Annotated[int | None, typer.Option(min=1, help="Of each search; 30.")] = None,
    scope: Annotated[
        Literal["model", "backbone"], typer.Option(help="Whose latency sparse rows meet.")
    ] = "model",
    score: Annotated[str | None, typer.Option(help="Of windows; default: the weights'.")] = None,
    height: Height = None,
    width: Width = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per timed forward.")] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, typer.Option(help="Of evaluation and timing.")
    ] = None,
    mode: Annotated[
        Literal["eager", "compiled", "cuda_graph"] | None, typer.Option(help="How it is executed.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    format: Format = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many images, evenly spread.")] = None,
    device: Device = "cpu",
    time_again: Annotated[
        bool, typer.Option("--time-again", help="Measure latencies anew, train nothing again.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Only shows that it runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compares sparse models with dense ones of fewer pixels and of fewer channels, at equal measured
    latency and equal training time: the paper's tables and its Figure 3, on your model and data.

    For every smaller dense row: the uniform sparsity and the searched one that are as fast. All rows
    start from MODEL, a dense checkpoint. Writes comparison.csv, .json and .png; stopped and called
    again it goes on with the rows that are missing.
    """
    from sparsevit.compare.run import run_compare
    from sparsevit.compare.settings import CompareSettings
    from sparsevit.latency.timers import thread_count
    from sparsevit.search.evolution import EvolutionSettings

    small = QUICK if quick else {}
    training = {
        "epochs": epochs,
        "steps": steps or (None if epochs else small.get("steps")),
        "batch": train_batch,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "schedule": schedule,
    }
    evolution = {
        "population": population or small.get("population"),
        "parents": small.get("parents"),
        "generations": generations or small.get("generations"),
    }
    if evolution["population"] and not evolution["parents"]:
        evolution["parents"] = max(1, evolution["population"] // 4)
    optional = {
        "widths": tuple(narrow) if narrow else None,
        "seeds": seeds or small.get("seeds"),
        "measure_seconds": small.get("seconds"),
    }
    size = image_size(height, width)
    settings = CompareSettings(
        sizes=tuple(map(_size, resolution)) if resolution else None,
        training=_given(training),
        adapt_share=adapt_share,
        scope=scope,
        evolution=EvolutionSettings(**_given(evolution)),
        strict=not quick,
        **_given(optional),
    )
    with thread_count(threads), _stages() as tell:
        document = run_compare(
            model,
            _given({"path": dataset, "format": format, "limit": limit}),
            output,
            settings=settings,
            device=device,
            input=_given(
                {
                    "height": size and size[0],
                    "width": size and size[1],
                    "batch": batch,
                    "precision": precision,
                    "mode": mode,
                    "threads": threads,
                }
            ),
            score=score,
            time_again=time_again,
            progress=tell,
        )
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    show(document)
    typer.echo(f"wrote {output}/comparison.csv, .json and .png")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not found:
        raise typer.BadParameter(f"a resolution is HEIGHTxWIDTH or one side, not {text!r}")
    return int(found[1]), int(found[2] or found[1])


@contextmanager
def _stages() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for the stage at hand; each that is over leaves a line."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task, stage = bar.add_task("starting", total=None), ""

        def tell(what: str, done: int, total: int) -> None:
            nonlocal stage
            if what != stage:
                if stage:
                    bar.console.print(f"done: {stage}", highlight=False)
                stage = what
                bar.reset(task, description=what, total=total)
            bar.update(task, completed=done, total=total)

        yield tell


def show(document: Mapping[str, Any]) -> None:
    """Prints the table, other numbers of the metric, the verdicts, and what else is to be known."""
    shape, rows = document["input"], document["rows"]
    console = Console()
    console.width = max(console.width, NARROWEST)
    table = _table(
        f"{document['device']['model']}, batch {shape['batch']}, {shape['precision']}, "
        f"{shape['mode']}; {document['metric']} on the {document['split']} split, seeds: "
        f"{document['seeds']}",
        ("input", "MACs, G", "backbone, ms", "model, ms", "metric", "range", "trained, s"),
    )
    for row in rows:
        latency, metric = row["latency_ms"], row["metric"]
        table.add_row(
            row["name"],
            "x".join(map(str, row["size"])),
            f"{row['macs'] / 1e9:.2f}",
            *(f"{latency[scope]['mean']:.2f}" for scope in ("backbone", "model")),
            f"{metric['mean']:.4f}",
            f"{metric['low']:.3f}-{metric['high']:.3f}",
            f"{row['training']['seconds']:.0f}",
        )
    console.print(table)
    if details := list(rows[0]["details"])[:SHOWN]:
        rest = len(rows[0]["details"]) - len(details)
        more = f"; {rest} more in comparison.csv" if rest else ""
        table = _table(f"Other numbers of the same models{more}", details)
        for row in rows:
            table.add_row(row["name"], *(f"{row['details'][name]:.4f}" for name in details))
        console.print(table)
    for line in (*map(_verdict, document["verdicts"]), *document["notes"]):
        typer.echo(line)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE)
    table.add_column("row")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _verdict(one: Mapping[str, Any]) -> str:
    gain, ratio = one["gain"], one["latency_ratio"]
    better = sum(value > 0 for value in gain["seeds"])
    return (
        f"{'yes' if one['holds'] else 'NO '} {one['row']} beats {one['against']}: "
        f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}), better with {better} of "
        f"{len(gain['seeds'])} seeds, at {ratio:.2f} of its latency"
    )
