"""The objects inside a search request: data set, input, preprocessing, trainings, search settings."""

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


def _rising(levels: tuple[int, ...]) -> tuple[int, ...]:
    """Checks that levels are listed once each, in rising order."""
    if list(levels) != sorted(set(levels)):
        raise ValueError("list each level once, in rising order, such as [0, 2, 4, 6, 8]")
    return levels


# JSON has lists only: a strict tuple would refuse them, its items stay strict.
Mean = Annotated[float, Field(ge=-10, le=10)]
Std = Annotated[float, Field(ge=1e-3, le=100)]
Means = Annotated[tuple[Mean, Mean, Mean], Field(strict=False)]
Stds = Annotated[tuple[Std, Std, Std], Field(strict=False)]
Levels = Annotated[
    tuple[Annotated[int, Field(ge=0, le=8)], ...],
    Field(strict=False, min_length=1, max_length=9),
    AfterValidator(_rising),
]
# The length of a path is the path resolver's to judge: it answers PATH_NOT_ALLOWED.
PathText = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
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


class DatasetSpec(Strict):
    """The images and annotations a search runs on."""

    path: PathText = Field(description='Folder under an allow-listed root, or "builtin:digits".')
    format: FormatName | None = Field(
        default=None,
        description="Layout of the folder, a reader of the task: imagefolder for classification; "
        "cityscapes, ade20k or folder for semantic segmentation; coco for instance segmentation; "
        "nuscenes for 3D detection. null: recognised by the reader.",
        examples=["imagefolder"],
    )
    train_split: SplitName = Field(
        default="train", description="Split for adaptation and fine-tuning."
    )
    search_split: SplitName = Field(
        default="val", description="Split the search scores candidates on."
    )
    report_split: SplitName | None = Field(
        default=None,
        description="Split the winner is scored on, which the search never sees. "
        "null: `holdout` of the search split is kept from the search.",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Use at most this many images of the search split.",
    )
    holdout: float = Field(
        default=0.2, gt=0, lt=1, description="Share of the search split kept for the report."
    )

    @model_validator(mode="after")
    def _builtin_splits(self) -> Self:
        splits = (self.train_split, self.search_split, self.report_split)
        if self.path == BUILTIN_DIGITS and splits != ("train", "val", None):
            raise ValueError("the built-in data set has splits of its own: leave the names out")
        return self


class InputSpec(Strict):
    """What the deployed model is fed and how it runs. null: read off checkpoint and data set."""

    height: int | None = Field(default=None, ge=32, le=8192, description="Image height in pixels.")
    width: int | None = Field(default=None, ge=32, le=8192, description="Image width in pixels.")
    batch: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Images per forward pass; of 3D detection, samples of six images.",
    )
    precision: Precision = Field(default="fp32", description="Number format.")
    mode: Mode = Field(
        default="eager",
        description="How the model is executed. A device that cannot fails the job.",
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads; null: the worker's own number."
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
        Field(strict=False, max_length=4),
        AfterValidator(_sizes_differ),
        Tag(SEVERAL_INPUTS),
    ],
    Discriminator(_form),
]


class PreprocessSpec(Strict):
    """How an image becomes the model's input. null: read off the checkpoint, else ImageNet's."""

    mean: Means | None = Field(default=None, description="Mean per channel, of pixels in 0..1.")
    std: Stds | None = Field(default=None, description="Standard deviation per channel.")
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

    epochs: float | None = Field(
        default=None, gt=0, le=10_000, description="Passes over the training split.", examples=[12]
    )
    steps: int | None = Field(
        default=None, ge=1, le=10_000_000, description="Optimiser steps, instead of epochs."
    )
    learning_rate: float | None = Field(
        default=None, gt=0, le=10, description="Peak learning rate.", examples=[1e-5]
    )
    batch: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Images per forward pass; of 3D detection, samples of six images.",
    )
    accumulate: int | None = Field(
        default=None, ge=1, le=1024, description="Forward passes per optimiser step."
    )
    precision: Precision | None = Field(
        default=None, description="Number format of forward and backward; weights stay fp32."
    )
    weight_decay: float | None = Field(default=None, ge=0, le=10, description="AdamW's.")
    warmup: int | None = Field(
        default=None,
        ge=0,
        le=10_000_000,
        description="Steps over which the rate rises to its peak.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=2**63 - 1,
        description="The same seed, data, device model and versions give the same weights.",
    )
    augment: bool | None = Field(
        default=None, description="Whether training images are varied (flips, crops, scales)."
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give one of epochs and steps")
        return self


class SearchSettings(Strict):
    """The search itself."""

    strategy: Strategy = Field(
        default="evolution",
        description="Who proposes candidates: `evolution`; `random`, to compare with; `exhaustive`, "
        "every config within the budget, of at most 20,000; `released`, the search as the paper's "
        "authors released it, to compare with.",
    )
    population: int = Field(default=100, ge=1, le=10_000, description="Candidates per generation.")
    parents: int = Field(default=25, ge=1, le=10_000, description="Best candidates, bred from.")
    generations: int = Field(default=30, ge=1, le=10_000, description="Generations, at most.")
    mutation: float = Field(default=0.1, ge=0, le=1, description="Chance that a gene changes.")
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="The same seed proposes the same.")
    max_evaluations: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Stop after this many candidates."
    )
    patience: int | None = Field(
        default=8,
        ge=1,
        le=10_000,
        description="Stop once the Pareto front has gained hardly any hypervolume (less than a "
        "thousandth) over this many generations; null: go on.",
    )
    levels: Levels | None = Field(
        default=None,
        description="Allowed sparsity levels, tenths of windows dropped; null: 0 to 8.",
    )
    racing: bool = Field(
        default=True,
        description="Drop a candidate that a faster or equally fast parent surely beats before it is "
        "evaluated on all images. `exhaustive` and `released` never do.",
    )
    reuse: bool = Field(
        default=True,
        description="Whether evaluations that an earlier search of yours made of the same weights, "
        "data and input are taken over. It changes what a search costs, never what it finds.",
    )

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.parents > self.population:
            raise ValueError("parents must not exceed population")
        if self.population * self.generations > 1_000_000:
            raise ValueError("population times generations must not exceed 1,000,000")
        return self
