"""The settings of the search itself, inside a search request."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from service.domain.specs import Strategy, Strict


def _rising(levels: tuple[int, ...]) -> tuple[int, ...]:
    """Checks that levels are listed once each, in rising order."""
    if list(levels) != sorted(set(levels)):
        raise ValueError("list each level once, in rising order, such as [0, 2, 4, 6, 8]")
    return levels


Levels = Annotated[
    tuple[Annotated[int, Field(ge=0, le=8)], ...],
    Field(strict=False, min_length=1, max_length=9, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_rising),
]


class SearchSettings(Strict):
    """The search itself. `parents` must not exceed `population`, nor `population` times
    `generations` 1,000,000."""

    strategy: Strategy = Field(
        default="evolution",
        description="Who proposes candidates: `evolution`; `random`, to compare with; `exhaustive`, "
        "every config within the budget, of at most 20,000; `released`, the search as the paper's "
        "authors released it, to compare with.",
    )
    population: int = Field(
        default=100, ge=1, le=10_000, description="Candidates per generation.", examples=[100]
    )
    parents: int = Field(
        default=25, ge=1, le=10_000, description="Best candidates, bred from.", examples=[25]
    )
    generations: int = Field(
        default=30, ge=1, le=10_000, description="Generations, at most.", examples=[30]
    )
    mutation: float = Field(
        default=0.1, ge=0, le=1, description="Chance that a gene changes.", examples=[0.1]
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**63 - 1,
        description="The same seed proposes the same.",
        examples=[7],
    )
    max_evaluations: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Stop after this many candidates.",
        examples=[2000],
    )
    patience: int | None = Field(
        default=8,
        ge=1,
        le=10_000,
        description="Stop once the Pareto front has gained hardly any hypervolume (less than a "
        "thousandth) over this many generations; null: go on.",
        examples=[8],
    )
    levels: Levels | None = Field(
        default=None,
        description="Allowed sparsity levels, tenths of windows dropped, in rising order; "
        "null: 0 to 8.",
        examples=[[0, 2, 4, 6, 8]],
    )
    racing: bool = Field(
        default=True,
        description="Drop a candidate that a config that is no slower surely beats before it is "
        "evaluated on all images. `exhaustive` and `released` never do.",
        examples=[True],
    )
    reuse: bool = Field(
        default=True,
        description="Whether evaluations that an earlier search of yours made of the same weights, "
        "data and input are taken over. It changes what a search costs, never what it finds.",
        examples=[True],
    )

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if self.parents > self.population:
            raise ValueError("parents must not exceed population")
        if self.population * self.generations > 1_000_000:
            raise ValueError("population times generations must not exceed 1,000,000")
        return self
