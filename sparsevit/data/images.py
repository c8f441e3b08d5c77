"""Reading of image files that strangers made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparsevit.errors import DatasetError

SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 64_000_000


def read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] RGB. Raises DatasetError, naming the file."""
    return _read(path, "RGB")


def read_labels(path: Path) -> np.ndarray:
    """One number per pixel, as stored: [H, W]. Raises DatasetError, naming the file."""
    labels = _read(path, None)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DatasetError(
            f"{path} must hold one 8-bit class index per pixel, it is {labels.dtype} {labels.shape}."
        )
    return labels


def _read(path: Path, mode: str | None) -> np.ndarray:
    """The format and the size are checked before anything is decoded."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(f"{path} has {image.width} x {image.height} pixels: too large.")
            return np.array(image.convert(mode) if mode else image)
    except DatasetError:
        raise
    except Exception as error:  # damaged images make decoders fail in any way (SyntaxError too)
        raise DatasetError(f"{path} cannot be read as {' or '.join(FORMATS)}: {error}") from error
