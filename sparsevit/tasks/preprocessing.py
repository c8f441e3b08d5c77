"""What the files of other libraries say of their preprocessing.

Hugging Face's preprocessor_config.json and timm's `pretrained_cfg` in config.json; other checkpoints
say nothing of it. What cannot be followed exactly is said in a UserWarning and in the load report.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsevit.data.preprocess import INTERPOLATIONS, Preprocess
from sparsevit.errors import CheckpointMismatch
from sparsevit.swin.checkpoints.folder import read_document
from sparsevit.tasks.description import WRONG, checked_preprocess

PROCESSOR = "preprocessor_config.json"
RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
TIMM_CROP_PCT = 0.875
CONVNEXT_WHOLE = 384  # from this size on, ConvNext's processor cuts nothing away
# Where `size` is one number, it is the shorter side for these, and both sides for all others.
SHORTER_SIDE = ("MaskFormer", "Mask2Former", "OneFormer")

Size = tuple[int, int]


def read_preprocess(
    path: Path, config: Mapping[str, Any] | None, default: Preprocess
) -> tuple[Preprocess, tuple[str, ...]]:
    """The preprocessing of a checkpoint, and what there is to say of it.

    config: the content of its config.json. CheckpointMismatch where a file makes no sense.
    """
    document = read_document(path, PROCESSOR)
    remarks: list[str] = []  # what differs from the checkpoint's own, sentence by sentence
    timm = (config or {}).get("pretrained_cfg")
    try:
        if document is not None:
            made = checked_preprocess(_huggingface(document, remarks))
        elif timm is not None:
            made = checked_preprocess(_timm(timm, remarks))
        else:
            return default, ("It does not say how images are prepared: as for ImageNet.",)
    except (AttributeError, *WRONG) as error:
        raise CheckpointMismatch(
            f"{path.name}: its preprocessing makes no sense: {error}"
        ) from error
    if remarks:
        text = f"The preprocessing of {path.name} cannot be followed exactly. {' '.join(remarks)}"
        warnings.warn(f"{text} Check `preprocess` and the input's size.", UserWarning, stacklevel=4)
        return made, (text,)
    return made, ()


def _huggingface(document: Mapping[str, Any], remarks: list[str]) -> Preprocess:
    factor = document.get("rescale_factor", 1 / 255) if document.get("do_rescale", True) else 1.0
    scale = 1.0 if math.isclose(factor, 1 / 255) else 255 * factor
    normalise = document.get("do_normalize", True)
    mean = document["image_mean"] if normalise else (0.0,) * 3
    std = document["image_std"] if normalise else (1.0,) * 3
    resize, crop_pct = _huggingface_size(document, remarks)
    return Preprocess(
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        resize=resize,
        crop_pct=crop_pct,
        interpolation=_interpolation(RESAMPLE.get(document.get("resample", 2)), remarks),
    )


def _huggingface_size(
    document: Mapping[str, Any], remarks: list[str]
) -> tuple[Size | None, float | None]:
    """(resize, crop_pct)"""
    crop = _pair(document["crop_size"]) if document.get("do_center_crop") else None
    size = _sides(document) if document.get("do_resize", True) else {}
    if "height" in size:
        whole = (size["height"], size["width"])
        if crop in (None, whole):
            return whole, None
        remarks.append(f"It squeezes images to {whole} before it cuts out their middle.")
        return crop, _share(crop, min(whole), remarks)
    shorter = size.get("shortest_edge")
    if shorter is not None and crop is not None:
        return crop, _share(crop, shorter, remarks)
    if shorter is not None and document.get("crop_pct") is not None:
        return (shorter, shorter), None if shorter >= CONVNEXT_WHOLE else document["crop_pct"]
    if size:
        sides = ", ".join(f"{side} {pixels}" for side, pixels in size.items())
        remarks.append(f"It keeps the shape of images ({sides}); here all have one size.")
    elif crop is not None:
        remarks.append("It cuts out the middle of images without resizing them.")
    return None, None


def _sides(document: Mapping[str, Any]) -> dict[str, int]:
    """Its `size` as {"height", "width"} or {"shortest_edge", ...}; old files have one number."""
    size = document.get("size", {})
    if isinstance(size, dict):
        return {side: pixels for side, pixels in size.items() if pixels is not None}
    kind = str(document.get("image_processor_type") or document.get("feature_extractor_type"))
    if kind.startswith(SHORTER_SIDE):
        longest = document.get("max_size")
        return {"shortest_edge": size} | ({"longest_edge": longest} if longest else {})
    height, width = _pair(size)
    return {"height": height, "width": width}


def _pair(size: Any) -> Size:
    if isinstance(size, dict):
        return size["height"], size["width"]
    return tuple(size) if isinstance(size, list) else (size, size)


def _share(crop: Size, shorter: int, remarks: list[str]) -> float | None:
    """The crop_pct with which images are first scaled to a shorter side of so many pixels."""
    if crop[0] != crop[1] or crop[0] > shorter:
        remarks.append(f"It cuts {crop} out of images whose shorter side is {shorter}.")
        return None
    share = crop[0] / shorter
    return share if math.floor(crop[0] / share) == shorter else math.nextafter(share, 0)


def _timm(config: Mapping[str, Any], remarks: list[str]) -> Preprocess:
    crop_pct = config.get("crop_pct") or TIMM_CROP_PCT
    mode = config.get("crop_mode") or "center"
    if mode == "squash" and crop_pct == 1:
        crop_pct = None  # brought to its size whatever its shape, nothing cut away
    elif mode != "center":
        remarks.append(f"Its crop_mode is {mode}.")
    height, width = config["input_size"][-2:]
    return Preprocess(
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resize=(height, width),
        crop_pct=crop_pct,
        interpolation=_interpolation(config["interpolation"], remarks),
    )


def _interpolation(name: str | None, remarks: list[str]) -> str:
    if name in INTERPOLATIONS:
        return name
    remarks.append("Its interpolation is none of this library's: bilinear is taken.")
    return "bilinear"
