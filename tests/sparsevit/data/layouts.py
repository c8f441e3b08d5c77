"""Small data sets on disk, one of each layout, that tests then spoil."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sparsevit.data.ade20k import ADE20K
from sparsevit.data.base import Reader
from sparsevit.data.cityscapes import CLASS_NAMES, Cityscapes
from sparsevit.data.coco import Coco
from sparsevit.data.image_folder import ImageFolder
from sparsevit.data.segmentation_folder import SegmentationFolder

SIZE = (20, 30)  # height, width
ADE_NAMES = tuple(f"thing {i}" for i in range(150))
FOLDER_NAMES = ("road", "car", "sky", "tree")
COCO_CATEGORIES = {1: "person", 18: "dog", 90: "toothbrush"}
WNIDS = ("n01440764", "n01443537")


@dataclass(frozen=True)
class Layout:
    """A data set with two images in its split `val`, and the first image's files."""

    root: Path
    reader: type[Reader]
    class_names: tuple[str, ...]
    image: Path
    labels: Path | None = None

    def open(self) -> Reader:
        return self.reader(self.root, "val", self.class_names)


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    """Random pixels, another picture for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_labels(path: Path, labels: np.ndarray | int) -> Path:
    """A label image of the given numbers, or filled with one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(labels, int):
        labels = np.full(SIZE, labels)
    Image.fromarray(labels.astype(np.uint8)).save(path)
    return path


def image_folder(root: Path) -> Layout:
    for seed, wnid in enumerate(WNIDS):
        write_image(root / "val" / wnid / "a.JPEG", seed)
    names = ("tench", "goldfish")
    return Layout(root, ImageFolder, names, root / "val" / WNIDS[0] / "a.JPEG")


def segmentation_folder(root: Path) -> Layout:
    for seed, name in enumerate("ab"):
        write_image(root / "images" / "val" / f"{name}.jpg", seed)
        write_labels(root / "annotations" / "val" / f"{name}.png", seed)
    image, labels = root / "images" / "val" / "a.jpg", root / "annotations" / "val" / "a.png"
    return Layout(root, SegmentationFolder, FOLDER_NAMES, image, labels)


def ade20k(root: Path) -> Layout:
    for number in (1, 2):
        name = f"ADE_val_{number:08}"
        write_image(root / "images" / "validation" / f"{name}.jpg", number)
        write_labels(root / "annotations" / "validation" / f"{name}.png", number)
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    image, labels = (
        root / kind / "validation" / f"ADE_val_00000001.{suffix}"
        for kind, suffix in (("images", "jpg"), ("annotations", "png"))
    )
    return Layout(root, ADE20K, ADE_NAMES, image, labels)


def cityscapes(root: Path) -> Layout:
    for seed, city in enumerate(("lindau", "munster")):
        stem = f"{city}_000000_000019"
        write_image(root / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png", seed)
        write_labels(root / "gtFine" / "val" / city / f"{stem}_gtFine_labelIds.png", 7 + seed)
    stem = "val/lindau/lindau_000000_000019"
    image = root / "leftImg8bit" / f"{stem}_leftImg8bit.png"
    labels = root / "gtFine" / f"{stem}_gtFine_labelIds.png"
    return Layout(root, Cityscapes, CLASS_NAMES, image, labels)


def coco(root: Path) -> Layout:
    annotations = []
    for number, key in enumerate(COCO_CATEGORIES):
        annotations.append({
            "id": number + 1, "image_id": 7, "category_id": key, "iscrowd": 0,
            "bbox": [2.0, 3.0, 10.0, 12.0], "area": 96.0,
            "segmentation": [[2.0, 3.0, 12.0, 3.0, 12.0, 15.0, 2.0, 15.0]],
        })  # fmt: skip
    images = []
    for seed, (number, name) in enumerate(((7, "a"), (30, "b"))):
        write_image(root / "val" / f"{name}.jpg", seed)
        images.append(
            {"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}
        )
    categories = [{"id": key, "name": name} for key, name in COCO_CATEGORIES.items()]
    table = root / "annotations" / "instances_val.json"
    table.parent.mkdir()
    table.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    names = tuple(COCO_CATEGORIES.values())
    return Layout(root, Coco, names, root / "val" / "a.jpg")


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    "image_folder": image_folder,
    "segmentation_folder": segmentation_folder,
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "coco": coco,
}


def huge_png() -> bytes:
    """A sound PNG header that claims 60,000 x 60,000 pixels, with next to nothing behind it."""
    return png(struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0), b"\0" * 100)


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """Grey of fewer than 8 bits a pixel, as tools that make files small write label images."""
    height, width = values.shape
    rows = [
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:]).tobytes()
        for row in values.astype(np.uint8)
    ]
    return png(struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0), b"".join(rows))


def png(header: bytes, rows: bytes) -> bytes:
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def fits() -> bytes:
    """A small FITS image: cards of 80 characters in blocks of 2,880 bytes."""
    cards = ("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 30", "NAXIS2  = 20", "END")
    head = "".join(card.ljust(80) for card in cards).ljust(2880)
    return head.encode() + bytes(2880)
