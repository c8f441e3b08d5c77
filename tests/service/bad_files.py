"""Bad checkpoints and data sets: a maker for each, and what their job fails with."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from service.domain.specs import BUILTIN_DIGITS
from sparsevit.tasks.files import BUILTIN
from tests.sparsevit.checkpoints.damage import Canary, header, small_state
from tests.sparsevit.data.layouts import (
    Layout,
    fits,
    huge_png,
    segmentation_folder,
    write_image,
    write_labels,
)

CANARY = "canary"


class Custom:
    """No tensor, and not of torch."""


def runs_a_command(folder: Path) -> Path:
    torch.save({"model": Canary(folder / CANARY)}, folder / "swin.pt")
    return folder / "swin.pt"


def custom_class(folder: Path) -> Path:
    torch.save({"model": Custom()}, folder / "swin.pt")
    return folder / "swin.pt"


def truncated_zip(folder: Path) -> Path:
    path = folder / "swin.pth"
    torch.save(small_state(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def endless_header(folder: Path) -> Path:
    return written(folder, header(2**63, b"{}"))


def overlapping_offsets(folder: Path) -> Path:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    body = json.dumps({"a": entry, "b": entry}).encode()
    return written(folder, header(len(body), body) + bytes(16))


def legacy_that_claims_gibibytes(folder: Path) -> Path:
    path = folder / "swin.pth"
    torch.save({"w": torch.zeros(300)}, path, _use_new_zipfile_serialization=False)
    # The number of elements, as pickle writes it, of the storage and of the tensor.
    claimed = (2**31 - 1).to_bytes(4, "little")
    content = path.read_bytes()
    assert b"M\x2c\x01" in content
    path.write_bytes(content.replace(b"M\x2c\x01", b"J" + claimed))
    return path


def deflate_bomb(folder: Path) -> Path:
    path = folder / "swin.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    return path


def very_many_tensors(folder: Path) -> Path:
    body = json.dumps({f"tensor{i}": {} for i in range(100_000)}).encode()
    return written(folder, header(len(body), body))


def written(folder: Path, content: bytes) -> Path:
    path = folder / "swin.safetensors"
    path.write_bytes(content)
    return path


def of_the_supernet(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """The shipped supernet with its first matrix changed."""
    path = folder / "swin.safetensors"
    with safe_open(BUILTIN[BUILTIN_DIGITS], "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, str(path), metadata)
    return path


def wrong_shapes(folder: Path) -> Path:
    return of_the_supernet(folder, lambda matrix: matrix[:-1])


def nan_weights(folder: Path) -> Path:
    return of_the_supernet(folder, lambda matrix: torch.full_like(matrix, torch.nan))


def resnet(folder: Path) -> Path:
    path = folder / "swin.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)}, str(path))
    return path


CHECKPOINTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "a pickle that runs os.system": ("CHECKPOINT_UNSAFE", runs_a_command),
    "a custom class": ("CHECKPOINT_UNSAFE", custom_class),
    "a truncated zip": ("CHECKPOINT_CORRUPT", truncated_zip),
    "a safetensors header length of 2^63": ("CHECKPOINT_CORRUPT", endless_header),
    "overlapping offsets": ("CHECKPOINT_CORRUPT", overlapping_offsets),
    "a tiny legacy file that claims GiBs": ("CHECKPOINT_TOO_LARGE", legacy_that_claims_gibibytes),
    "a deflate bomb": ("CHECKPOINT_TOO_LARGE", deflate_bomb),
    "a header of 100,000 tensors": ("CHECKPOINT_TOO_LARGE", very_many_tensors),
    "wrong shapes": ("CHECKPOINT_MISMATCH", wrong_shapes),
    "NaN weights": ("CHECKPOINT_MISMATCH", nan_weights),
    "a ResNet": ("CHECKPOINT_MISMATCH", resnet),
}


@dataclass(frozen=True)
class Spoiled:
    """A way to spoil a data set, and what its job says of it."""

    spoil: Callable[[Layout], None]
    says: str


def huge_image(data: Layout) -> None:
    data.image.write_bytes(huge_png())


def fits_as_jpg(data: Layout) -> None:
    data.image.write_bytes(fits())


def link_out(data: Layout) -> None:
    secret = data.root.parent / "secret.jpg"
    data.image.rename(secret)
    data.image.symlink_to(secret)


def empty(data: Layout) -> None:
    for file in data.root.rglob("*.*g"):
        file.unlink()


def label_out_of_range(data: Layout) -> None:
    for file in data.root.rglob("annotations/val/*.png"):
        write_labels(file, 200)


def truncated_images(data: Layout) -> None:
    for file in data.root.rglob("images/val/*.jpg"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])


def annotation_of_a_missing_file(data: Layout) -> None:
    data.image.unlink()


DATASETS = {
    "a 60,000 x 60,000 PNG": Spoiled(huge_image, "pixels"),
    "FITS named .jpg": Spoiled(fits_as_jpg, "cannot be read as JPEG or PNG"),
    "an inner symlink out": Spoiled(link_out, "is a link out of the data set"),
    "an empty set": Spoiled(empty, "no image"),
    "a label out of range": Spoiled(label_out_of_range, "the class 200"),
    "truncated images": Spoiled(truncated_images, "cannot be read"),
    "annotations that name missing files": Spoiled(
        annotation_of_a_missing_file, "an image that is not"
    ),
}


def dataset(folder: Path) -> Layout:
    """A sound set of a few images for the shipped supernet, in a folder layout."""
    data = segmentation_folder(folder / "set")
    for number in range(8):
        write_image(data.root / "images" / "val" / f"more-{number}.jpg", number)
        write_labels(data.root / "annotations" / "val" / f"more-{number}.png", 1)
    return data
