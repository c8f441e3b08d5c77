"""Reading of image files that strangers made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparsevit.errors import DatasetError
from sparsevit.opening import open_file

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 64_000_000
IMAGE_MODES = ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr")  # 16 bits would be clipped to 8
LABEL_MODES = ("L", "P")
ENDS = (b"\xff\xd9", b"IEND\xaeB`\x82")  # of a JPEG, of a PNG
TAIL = 64  # bytes: a few tools write something behind
GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow spreads grey of 2 or 4 bits over 0 to 255


def read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] RGB. Raises DatasetError, naming the file."""
    with _opened(path, IMAGE_MODES) as image:
        return np.array(image.convert("RGB"))


def read_labels(path: Path) -> np.ndarray:
    """One number per pixel, as stored: uint8 [H, W]. Raises DatasetError, naming the file."""
    with _opened(path, LABEL_MODES) as labels:
        step = GREY_STEPS.get(labels.tile[0].args, 1)
        return np.array(labels) // np.uint8(step)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image by its header alone. Raises DatasetError, naming the file."""
    with _opened(path, IMAGE_MODES) as image:
        return image.height, image.width


def check_whole(path: Path) -> None:
    """Raises DatasetError, naming the file, where its end is cut off.

    Where the end does not show that nothing is missing the image is decoded.
    """
    with open_file(path) as file:
        file.seek(max(0, file.seek(0, 2) - TAIL))
        tail = file.read()
    if not any(end in tail for end in ENDS):
        read_image(path)


def labels_size(path: Path) -> tuple[int, int]:
    """(height, width) of a label image by its header alone. Raises DatasetError, naming the file."""
    with _opened(path, LABEL_MODES) as labels:
        return labels.height, labels.width


def check_same_size(
    image: Path, image_hw: Sequence[int], labels: Path, labels_hw: Sequence[int]
) -> None:
    """Raises DatasetError, naming both files, where (height, width) differ."""
    if tuple(image_hw) != tuple(labels_hw):
        raise DatasetError(
            f"{labels} is {labels_hw[0]} x {labels_hw[1]} (height x width), its image {image} "
            f"{image_hw[0]} x {image_hw[1]}: they must match."
        )


@contextmanager
def _opened(path: Path, modes: Sequence[str]) -> Iterator[Image.Image]:
    """The format, the size and the mode are checked before anything is decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_file(path) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(f"{path} has {image.width} x {image.height} pixels: too large.")
            if image.mode not in modes:
                wanted = (
                    "one 8-bit class index per pixel" if modes is LABEL_MODES else "8-bit colours"
                )
                raise DatasetError(f"{path} must hold {wanted}; its pixels are {image.mode}.")
            yield image
    except DatasetError:
        raise
    except UnidentifiedImageError as error:  # its message shows the open file
        raise DatasetError(
            f"{path} cannot be read as {' or '.join(FORMATS)}: it is none."
        ) from error
    except Exception as error:  # damaged images make decoders fail in any way (SyntaxError too)
        raise DatasetError(f"{path} cannot be read as {' or '.join(FORMATS)}: {error}") from error
