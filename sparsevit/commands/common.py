"""What the commands share: arguments and the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

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

Checkpoint = Annotated[str, typer.Argument(help="A checkpoint's path, or builtin:digits.")]
DataSet = Annotated[
    str, typer.Argument(help="A data set's folder (docs/tasks.md), or builtin:digits.")
]
Config = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="A best config of the weights; default: dense."),
]
Format = Annotated[str | None, typer.Option(help="Layout of the folder; default: recognised.")]
Height = Annotated[
    int | None,
    typer.Option(min=32, help="Pixels the model sees; default: its file's, or the images'."),
]
Width = Annotated[int | None, typer.Option(min=32, help="As --height.")]
Device = Annotated[str, typer.Option(help="cpu or cuda:0.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON only.")]

Update = Callable[[int, int, float], None]  # (done, in all, loss)


def image_size(height: int | None, width: int | None) -> tuple[int, int] | None:
    """(height, width) as given, or None."""
    if height is None and width is None:
        return None
    if height is None or width is None:
        raise typer.BadParameter("give --height and --width together, or neither")
    return height, width


@contextmanager
def training_bar(
    what: str, loss: bool = True, note: Callable[[], str] = str, hidden: bool = False
) -> Iterator[Update]:
    """A progress bar on stderr with count, time spent and time left. note: shown after the loss."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int, value: float) -> None:
            text = f"{what}, loss {value:.3f}{note()}" if loss else what
            bar.update(task, completed=done, total=total, description=text)

        yield update
