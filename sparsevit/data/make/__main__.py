"""`python -m sparsevit.data.make imagenet|cityscapes|ade20k|coco|nuscenes OUT`: small real formats."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from sparsevit.data.make import ade20k, cityscapes, coco, imagenet, nuscenes
from sparsevit.errors import ConfigError, SparseViTError

Out = Annotated[Path, typer.Argument(help="Folder to write into: a new or an empty one.")]
Train = Annotated[int, typer.Option(min=1, help="Images of the training split.")]
Val = Annotated[int, typer.Option(min=1, help="Images of the validation split.")]
Size = Annotated[str | None, typer.Option(help="HxW in pixels, such as 256x512.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")]

app = typer.Typer(
    name="python -m sparsevit.data.make",
    help="Makes small data sets in the formats of real ones: drawn scenes with exact labels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
EXAMPLE = "Example: python -m sparsevit.data.make "


@app.command("imagenet", epilog=EXAMPLE + "imagenet /tmp/imagenet --train 200 --classes 20")
def make_imagenet(
    out: Out,
    train: Train = 40,
    val: Val = 20,
    size: Size = None,
    seed: Seed = 0,
    classes: Annotated[
        int, typer.Option(min=1, max=imagenet.MAX_CLASSES, help="Class folders.")
    ] = 10,
) -> None:
    """{train,val}/WNID/*.JPEG: coloured shapes over photographs; 160 to 320 pixels without --size."""
    _make(
        out,
        train + val,
        lambda: imagenet.make(out, {"train": train, "val": val}, _size(size), seed, classes),
    )


@app.command("cityscapes", epilog=EXAMPLE + "cityscapes /tmp/cityscapes --size 256x512")
def make_cityscapes(
    out: Out, train: Train = 24, val: Val = 8, size: Size = None, seed: Seed = 0
) -> None:
    """leftImg8bit and gtFine (labelIds, instanceIds): street scenes; 1024x2048 without --size."""
    counts = {"train": train, "val": val}
    _make(out, train + val, lambda: cityscapes.make(out, counts, _size(size), seed))


@app.command("ade20k", epilog=EXAMPLE + "ade20k /tmp/ade --train 100 --val 20")
def make_ade20k(
    out: Out, train: Train = 24, val: Val = 8, size: Size = None, seed: Seed = 0
) -> None:
    """ADEChallengeData2016: rooms and coasts of 150 classes; 384x512 without --size."""
    counts = {"train": train, "val": val}
    _make(out, train + val, lambda: ade20k.make(out, counts, _size(size), seed), ade20k.FOLDER)


@app.command("coco", epilog=EXAMPLE + "coco /tmp/coco --train 200 --val 50")
def make_coco(out: Out, train: Train = 24, val: Val = 8, size: Size = None, seed: Seed = 0) -> None:
    """annotations/instances_SPLIT2017.json and SPLIT2017: scenes of 12 of COCO's 80 categories, with
    crowds; 480x640 or 640x480 without --size."""
    counts = {"train": train, "val": val}
    _make(out, train + val, lambda: coco.make(out, counts, _size(size), seed))


@app.command("nuscenes", epilog=EXAMPLE + "nuscenes /tmp/nuscenes --train 40 --size 225x400")
def make_nuscenes(
    out: Out, train: Train = 20, val: Val = 10, size: Size = None, seed: Seed = 0
) -> None:
    """v1.0-trainval: drives of five samples, six cameras each; 900x1600 without --size.

    --train and --val are samples: six images each.
    """
    counts = {"train": train, "val": val}
    _make(out, train + val, lambda: nuscenes.make(out, counts, _size(size), seed))


def _make(out: Path, images: int, start: Callable[[], Iterator[Path]], inside: str = "") -> None:
    """inside: where the data set lies in `out`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not an empty folder: name a new one.")
    for _ in track(start(), "drawing", total=images, console=Console(stderr=True)):
        pass
    typer.echo(f"wrote {images} images to {out / inside}")


def _size(text: str | None) -> tuple[int, int] | None:
    """(height, width)"""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if match is None or min(map(int, match.groups())) < 32:
        raise ConfigError(f"--size is {text!r}; it is HxW, at least 32x32, such as 256x512.")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    try:
        app()
    except SparseViTError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
