"""The search request: what a user may ask for, with every default filled in.

`parse_search_request` is the only door. Types are taken as they come (no "5" for 5, no true for 1),
unknown fields are refused, and every finding is reported at once without repeating the input.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from service.domain.errors import ValidationFailed
from service.domain.findings import check_strings, findings
from service.domain.search_settings import SearchSettings
from service.domain.specs import (
    TEXT,
    DatasetSpec,
    DeviceName,
    InputSpec,
    InputSpecs,
    PathText,
    PreprocessSpec,
    Scope,
    Strict,
    Task,
    TrainingSpec,
)

_PERCENT = r"^(100(\.0{1,6})?|[1-9][0-9]?(\.[0-9]{1,6})?|0\.0{0,5}[1-9][0-9]{0,5})%$"
"""More than 0%, and up to 100%."""

_TEXT = {"pattern": TEXT}
_KEYS = {"propertyNames": {"minLength": 1, "maxLength": 64, "pattern": TEXT}}


def _one_budget_of_two() -> ConfigDict:
    """What a description says of the budgets: one is given, the other left out or null."""
    ms, share = {"type": "number"}, {"type": "string"}
    forms = (
        ("latency_budget_ms", ms, "latency_budget"),
        ("latency_budget", share, "latency_budget_ms"),
    )
    one_of = [
        {"required": [given], "properties": {given: kind, other: {"type": "null"}}}
        for given, kind, other in forms
    ]
    return ConfigDict(json_schema_extra={"oneOf": one_of})


def _percent(value: str) -> str:
    """Checks a budget such as "60%"."""
    if re.fullmatch(_PERCENT, value) is None:
        raise ValueError('give a share of the dense latency above 0% and up to 100%, such as "60%"')
    return value


def _dataset_object(value: object) -> object:
    """A bare string stands for {"path": string}."""
    return {"path": value} if isinstance(value, str) else value


def _given(value: object) -> object:
    """null stands for an object of defaults."""
    return {} if value is None else value


class SearchRequest(Strict):
    """Find the best sparsity configuration of a checkpoint within a latency budget.

    Give exactly one of `latency_budget_ms` and `latency_budget`. Unknown fields are refused.
    """

    model_config = _one_budget_of_two()

    checkpoint: PathText = Field(
        description="Checkpoint file, or a model folder of Hugging Face's, under an allow-listed "
        'root, or "builtin:digits".',
        examples=["/srv/data/swin-tiny.safetensors"],
    )
    dataset: Annotated[
        DatasetSpec, BeforeValidator(_dataset_object, json_schema_input_type=DatasetSpec | PathText)
    ] = Field(
        description='A data set; a bare string stands for {"path": string}.',
        examples=[{"path": "/srv/data/imagenet"}, "builtin:digits"],
    )
    latency_budget_ms: float | None = Field(
        default=None,
        gt=0,
        le=1e7,
        description="Budget in milliseconds. Give this or `latency_budget`.",
        examples=[25.0],
    )
    latency_budget: (
        Annotated[str, Field(json_schema_extra={"pattern": _PERCENT}), AfterValidator(_percent)]
        | None
    ) = Field(
        default=None,
        description='Budget as a share of the dense latency on the device, such as "60%".',
        examples=["60%"],
    )
    latency_scope: Scope = Field(
        default="model",
        description="What the budget covers: `model`, from the image tensor to the predictions; or "
        "`backbone`, as in the paper.",
    )
    task: Task | None = Field(
        default=None,
        description="What the model does; null: read off the checkpoint.",
        examples=["semantic_segmentation"],
    )
    device: DeviceName | None = Field(
        default=None,
        description="A device model of GET /devices, or `cpu` or `cuda` where that names one. "
        "null: the only one known.",
        examples=["NVIDIA H100 80GB HBM3"],
    )
    input: Annotated[
        InputSpecs, BeforeValidator(_given, json_schema_input_type=InputSpecs | None)
    ] = Field(
        default_factory=InputSpec,
        description="Input of the deployed model; or a list of up to 4 that differ in height and "
        "width only: one search each, whose fronts are merged.",
        examples=[{"height": 448, "width": 448}],
    )
    preprocess: PreprocessSpec | None = Field(
        default=None,
        description="Preprocessing of images.",
        examples=[{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}],
    )
    score: Literal["l2", "mean_abs", "variance", "late", "released", "random"] | None = Field(
        default=None,
        description="Window score; null: the library's default.",
        examples=["variance"],
    )
    search: Annotated[
        SearchSettings, BeforeValidator(_given, json_schema_input_type=SearchSettings | None)
    ] = Field(
        default_factory=SearchSettings,
        description="Settings of the search.",
        examples=[{"population": 50, "seed": 7}],
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
        Annotated[str, Field(min_length=1, max_length=64)],
        Annotated[str, Field(max_length=512, json_schema_extra=_TEXT)],
    ] = Field(
        default_factory=dict,
        max_length=16,
        description="Up to 16 short strings of yours.",
        json_schema_extra=_KEYS,
        examples=[{"ticket": "ML-71"}],
    )

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
