"""The search request: what a user may ask for, with every default filled in.

`parse_search_request` is the only door. Types are taken as they come (no "5" for 5, no true for 1),
unknown fields are refused, and every finding is reported at once without repeating the input.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from service.domain.errors import ValidationFailed
from service.domain.findings import check_strings, findings
from service.domain.specs import (
    DatasetSpec,
    InputSpec,
    InputSpecs,
    Name,
    PathText,
    PreprocessSpec,
    Scope,
    SearchSettings,
    Strict,
    Task,
    TrainingSpec,
)

_PERCENT = re.compile(r"^(\d{1,3}(?:\.\d{1,6})?)%$", re.ASCII)


def _percent(value: str) -> str:
    """Checks a budget such as "60%"."""
    match = _PERCENT.match(value)
    if match is None or not 0 < float(match[1]) <= 100:
        raise ValueError('give a share of the dense latency above 0% and up to 100%, such as "60%"')
    return value


def _dataset_object(value: object) -> object:
    """A bare string stands for {"path": string}."""
    return {"path": value} if isinstance(value, str) else value


def _given(value: object) -> object:
    """null stands for an object of defaults."""
    return {} if value is None else value


class SearchRequest(Strict):
    """Find the best sparsity configuration of a checkpoint within a latency budget."""

    checkpoint: PathText = Field(
        description="Checkpoint file, or a model folder of Hugging Face's, under an allow-listed "
        'root, or "builtin:digits".'
    )
    dataset: Annotated[DatasetSpec, BeforeValidator(_dataset_object)] = Field(
        description='A data set; a bare string stands for {"path": string}.'
    )
    latency_budget_ms: float | None = Field(
        default=None,
        gt=0,
        le=1e7,
        description="Budget in milliseconds. Give this or `latency_budget`.",
    )
    latency_budget: Annotated[str, AfterValidator(_percent)] | None = Field(
        default=None,
        description='Budget as a share of the dense latency on the device, such as "60%".',
    )
    latency_scope: Scope = Field(default="model", description="What the budget covers.")
    task: Task | None = Field(default=None, description="null: read off the checkpoint.")
    device: Name | None = Field(
        default=None,
        description="A device model of GET /devices, or `cpu` or `cuda` where that names one. "
        "null: the only one known.",
    )
    input: Annotated[InputSpecs, BeforeValidator(_given)] = Field(
        default_factory=InputSpec,
        description="Input of the deployed model; or a list of up to 4 that differ in height and "
        "width only: one search each, whose fronts are merged.",
    )
    preprocess: PreprocessSpec | None = Field(default=None, description="Preprocessing of images.")
    score: Literal["l2", "mean_abs", "variance", "late", "released", "random"] | None = Field(
        default=None, description="Window score; null: the library's default."
    )
    search: Annotated[SearchSettings, BeforeValidator(_given)] = Field(
        default_factory=SearchSettings, description="Settings of the search."
    )
    adapt: TrainingSpec | None = Field(
        default=None,
        description="Sparsity-aware adaptation before the search, on the training split. {}: as "
        "recommended for the task. null: none; weights never adapted then add the verdict "
        "SUPERNET_NOT_ADAPTED.",
        examples=[{}, {"epochs": 12, "learning_rate": 1e-5}],
    )
    finetune: TrainingSpec | None = Field(
        default=None,
        description="Fine-tuning of the winner after the search, on the training split; metric and "
        "latency are then measured again with the new weights. {}: as recommended. null: none.",
        examples=[{}, {"epochs": 4}],
    )
    metadata: dict[
        Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]
    ] = Field(default_factory=dict, max_length=16, description="Up to 16 short strings of yours.")

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.latency_budget_ms is None) == (self.latency_budget is None):
            raise ValueError("give exactly one of latency_budget_ms and latency_budget")
        return self


def parse_search_request(data: object) -> SearchRequest:
    """Checks a JSON value and fills in every default.

    Raises:
        ValidationFailed: with one finding per field that is refused.
    """
    errors = check_strings(data, SearchRequest)
    if not errors:
        try:
            return SearchRequest.model_validate(data)
        except ValidationError as error:
            errors = findings(error, SearchRequest)
    raise ValidationFailed("the request has fields that cannot be used; see errors", errors)
