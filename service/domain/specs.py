"""The objects inside a search request: data set, input, preprocessing, trainings."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

BUILTIN_DIGITS = "builtin:digits"

TEXT = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""What text may hold, as descriptions say it: no control character. `findings` sees to it."""

# JSON has lists only: a strict tuple would refuse them, its items stay strict.
Mean = Annotated[float, Field(ge=-10, le=10)]
Std = Annotated[float, Field(ge=1e-3, le=100)]
Means = Annotated[tuple[Mean, Mean, Mean], Field(strict=False)]
Stds = Annotated[tuple[Std, Std, Std], Field(strict=False)]
# The length of a path is the path resolver's to judge: it answers PATH_NOT_ALLOWED.
PathText = Annotated[
    str, Field(min_length=1, json_schema_extra={"pattern": TEXT, "format": "data-path"})
]
DeviceName = Annotated[
    str,
    Field(
        min_length=1, max_length=128, json_schema_extra={"pattern": TEXT, "format": "device-model"}
    ),
]
FormatName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
# A split becomes part of a path below the data set: no separator, no "..".
SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Precision = Literal["fp32", "bf16", "fp16"]
Mode = Literal["eager", "compiled", "cuda_graph"]
Scope = Literal["model", "backbone"]
Task = Literal["classification", "semantic_segmentation", "instance_segmentation", "detection_3d"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Strategy = Literal["evolution", "random", "exhaustive", "released"]
ShareUpToOne = Annotated[float, Field(gt=0, le=1)]


class Strict(BaseModel):
    """Frozen, strict, no unknown fields, no NaN or infinity."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )


def not_both(one: str, other: str) -> ConfigDict:
    """What a description says of two numbers of which at most one may be given."""
    numbers = {name: {"type": "number"} for name in (one, other)}
    return ConfigDict(json_schema_extra={"not": {"required": [one, other], "properties": numbers}})


def _its_own_splits() -> ConfigDict:
    builtin = {"required": ["path"], "properties": {"path": {"const": BUILTIN_DIGITS}}}
    splits = {"train_split": {"const": "train"}, "search_split": {"const": "val"}}
    names = {"properties": splits | {"report_split": {"type": "null"}}}
    return ConfigDict(json_schema_extra={"if": builtin, "then": names})


class DatasetSpec(Strict):
    """The images and annotations a search runs on. The built-in one has splits of its own: its
    names are left out."""

    model_config = _its_own_splits()

    path: PathText = Field(
        description='Folder under an allow-listed root, or "builtin:digits".',
        examples=["/srv/data/imagenet"],
    )
    format: FormatName | None = Field(
        default=None,
        description="Layout of the folder, a reader of the task: imagefolder for classification; "
        "cityscapes, ade20k or folder for semantic segmentation; coco for instance segmentation; "
        "nuscenes for 3D detection. null: recognised by the reader.",
        examples=["imagefolder"],
    )
    train_split: SplitName = Field(
        default="train",
        description="Split for adaptation and fine-tuning.",
        examples=["train"],
    )
    search_split: SplitName = Field(
        default="val", description="Split the search scores candidates on.", examples=["val"]
    )
    report_split: SplitName | None = Field(
        default=None,
        description="Split the winner is scored on, which the search never sees. "
        "null: `holdout` of the search split is kept from the search.",
        examples=["test"],
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Use at most this many images of the search split.",
        examples=[5000],
    )
    holdout: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Share of the search split kept for the report.",
        examples=[0.2],
    )

    @model_validator(mode="after")
    def _builtin_splits(self) -> Self:
        splits = (self.train_split, self.search_split, self.report_split)
        if self.path == BUILTIN_DIGITS and splits != ("train", "val", None):
            raise ValueError("the built-in data set has splits of its own: leave the names out")
        return self


class InputSpec(Strict):
    """What the deployed model is fed and how it runs. null: read off checkpoint and data set."""

    height: int | None = Field(
        default=None, ge=32, le=8192, description="Image height in pixels.", examples=[448]
    )
    width: int | None = Field(
        default=None, ge=32, le=8192, description="Image width in pixels.", examples=[448]
    )
    batch: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Images per forward pass; of 3D detection, samples of six images.",
        examples=[1],
    )
    precision: Precision = Field(default="fp32", description="Number format.")
    mode: Mode = Field(
        default="eager",
        description="How the model is executed. A device that cannot fails the job.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads; null: the worker's own number.",
        examples=[4],
    )


def _sizes_differ(inputs: tuple[InputSpec, ...]) -> tuple[InputSpec, ...]:
    """Checks that several inputs are one, at different sizes."""
    if not inputs:
        raise ValueError("give at least one input")
    sizes = {(one.height, one.width) for one in inputs}
    rest = {one.model_copy(update={"height": None, "width": None}) for one in inputs}
    if len(sizes) < len(inputs) or len(rest) > 1:
        raise ValueError("several inputs differ in height or width, and in nothing else")
    return inputs


def _form(value: object) -> str:
    return SEVERAL_INPUTS if isinstance(value, list | tuple) else ONE_INPUT


ONE_INPUT, SEVERAL_INPUTS = "one input", "several inputs"
"""Forms of `input`, as validation names them where it says what is wrong."""

InputSpecs = Annotated[
    Annotated[InputSpec, Tag(ONE_INPUT)]
    | Annotated[
        tuple[InputSpec, ...],
        Field(strict=False, max_length=4, json_schema_extra={"minItems": 1, "uniqueItems": True}),
        AfterValidator(_sizes_differ),
        Tag(SEVERAL_INPUTS),
    ],
    Discriminator(_form),
]


class PreprocessSpec(Strict):
    """How an image becomes the model's input. null: read off the checkpoint, else ImageNet's."""

    model_config = not_both("crop_pct", "slide")

    mean: Means | None = Field(
        default=None,
        description="Mean per channel, of pixels in 0..1.",
        examples=[[0.485, 0.456, 0.406]],
    )
    std: Stds | None = Field(
        default=None,
        description="Standard deviation per channel.",
        examples=[[0.229, 0.224, 0.225]],
    )
    channels: Literal["rgb", "bgr"] | None = Field(
        default=None, description="Order of the channels."
    )
    interpolation: Interpolation | None = Field(
        default=None, description="How images are resized, as Pillow computes it."
    )
    crop_pct: ShareUpToOne | None = Field(
        default=None,
        description="Keep an image's shape: scale it to cover the input's size divided by this, "
        "and cut the middle out. null: what the checkpoint says unless `slide` is given, else "
        "resized whatever its shape.",
        examples=[0.875],
    )
    crop_at: Literal["middle", "bottom"] | None = Field(
        default=None,
        description="What `crop_pct` keeps of the height: the middle, or, as 3D detectors are "
        "trained, the bottom. null: what the checkpoint says.",
    )
    slide: ShareUpToOne | None = Field(
        default=None,
        description="Cut an image into overlapping crops of the input's size instead of resizing "
        "it, whatever `crop_pct` the checkpoint has; the step as a share of that size.",
        examples=[0.667],
    )
    expected_dense_metric: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="What the dense model is known to reach, as the job reports the task's metric "
        "(0.812, not 81.2). It is scored on up to 256 images first; a job whose result is further "
        "from this than chance explains fails at once with DENSE_METRIC_MISMATCH.",
        examples=[0.812],
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.crop_pct is not None and self.slide is not None:
            raise ValueError("give one of crop_pct and slide")
        return self


class TrainingSpec(Strict):
    """How the network is trained. null: the setting recommended for the task."""

    model_config = not_both("epochs", "steps")

    epochs: float | None = Field(
        default=None, gt=0, le=10_000, description="Passes over the training split.", examples=[12]
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Optimiser steps, instead of epochs.",
        examples=[5000],
    )
    learning_rate: float | None = Field(
        default=None, gt=0, le=10, description="Peak learning rate.", examples=[1e-5]
    )
    batch: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Images per forward pass; of 3D detection, samples of six images.",
        examples=[32],
    )
    accumulate: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Forward passes per optimiser step.",
        examples=[2],
    )
    precision: Precision | None = Field(
        default=None, description="Number format of forward and backward; weights stay fp32."
    )
    weight_decay: float | None = Field(
        default=None, ge=0, le=10, description="AdamW's.", examples=[0.05]
    )
    warmup: int | None = Field(
        default=None,
        ge=0,
        le=10_000_000,
        description="Steps over which the rate rises to its peak.",
        examples=[500],
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=2**63 - 1,
        description="The same seed, data, device model and versions give the same weights.",
        examples=[0],
    )
    augment: bool | None = Field(
        default=None,
        description="Whether training images are varied (flips, crops, scales).",
        examples=[True],
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give one of epochs and steps")
        return self
