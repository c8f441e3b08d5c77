"""The JSON of what a latency map answers before a search: dry runs, and the latencies of jobs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.api.plain import ApiObject, JobError
from service.domain import latency
from service.domain.records import DryRun, Json
from service.domain.request import SearchRequest
from service.domain.specs import Scope
from service.domain.status import Inspection

Ms = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Row = Annotated[list[float], Field(min_length=2, max_length=2)]

FEASIBLE = [[11.2, 0.0003], [18.4, 0.031], [27.1, 0.52], [43.0, 1.0]]


class MapInput(ApiObject):
    """The input latencies are for."""

    height: int = Field(description="Image height in pixels.", examples=[448])
    width: int = Field(description="Image width in pixels.", examples=[448])
    batch: int = Field(description="Images per forward pass.", examples=[1])
    precision: str = Field(description="Number format.", examples=["fp32"])
    mode: str = Field(description="How the model is executed.", examples=["eager"])
    threads: int | None = Field(description="CPU threads; null on other devices.", examples=[1])


class Accuracy(ApiObject):
    """How well a latency map predicts configs that were measured whole, without being fitted."""

    mean_error: float = Field(description="Mean relative error.", examples=[0.012])
    max_error: float = Field(description="Largest relative error.", examples=[0.031])
    rank_correlation: float = Field(description="Spearman's.", examples=[0.99])
    noise_floor: float = Field(
        description="Relative error that the noise of the measurements makes.", examples=[0.008]
    )
    configs: int = Field(description="Configs measured.", examples=[12])


class Padding(ApiObject):
    """Tokens a stage computes because its windows must be whole."""

    stage: int = Field(description="From 0.", examples=[3])
    padded: int = Field(description="Tokens computed, padding included.", examples=[196])
    real: int = Field(description="Tokens of the image.", examples=[150])
    ratio: float = Field(description="padded / real.", examples=[1.31])


class AlignedSize(ApiObject):
    """A size near the input's at which no stage is padded."""

    height: int = Field(description="Image height in pixels.", examples=[448])
    width: int = Field(description="Image width in pixels.", examples=[672])
    predicted_ms: Ms = Field(
        description="Dense latency, predicted from that of the input.", examples=[61.3]
    )


class ScopeFigures(ApiObject):
    """What the configs of a space take, in one latency scope."""

    dense_ms: Ms = Field(description="The dense network.", examples=[43.0])
    min_ms: Ms = Field(description="The fastest config, as predicted.", examples=[11.2])
    max_ms: Ms = Field(description="The slowest config, as predicted.", examples=[43.0])
    nearest_ms: Ms = Field(
        description="The nearest possible budget: a margin above min_ms.", examples=[11.8]
    )
    configs: int = Field(description="Distinct configs.", examples=[120285])
    feasible: list[Row] = Field(
        description="Rows of [ms, share of the configs predicted within it], ascending, from "
        "min_ms to max_ms; linear between two rows.",
        examples=[FEASIBLE],
    )


class Scopes(ApiObject):
    """Figures by latency scope."""

    model: ScopeFigures = Field(description="From the image tensor to the predictions.")
    backbone: ScopeFigures = Field(description="Of the backbone alone, as in the paper.")


class _MapFacts(ApiObject):
    key: str = Field(description="Key of the latency map.", examples=["c93f2c90f136b81f"])
    device: str = Field(description="Device model.", examples=["NVIDIA H100 80GB HBM3"])
    disturbed: bool = Field(
        description="Whether the device was busy with something else: figures are rough then.",
        examples=[False],
    )
    accuracy: Accuracy | None = Field(
        description="How well it predicts; null: nothing was checked against it."
    )
    padding: list[Padding] = Field(description="One entry per stage.")
    aligned: list[AlignedSize] = Field(
        description="Nearest sizes without padding, fastest first; empty where nothing is padded."
    )


class LatencyObject(_MapFacts):
    """What a latency map answers for the space of a job."""

    input: MapInput = Field(description="What it was measured with.")
    score: str = Field(description="Window score.", examples=["variance"])
    receipt: str = Field(
        description="Id of the calibration's receipt, one of the job's.",
        examples=["receipt_5d41402abc4b2a76b971"],
    )
    scopes: Scopes = Field(description="What configs take, by latency scope.")


class DryRunLatency(_MapFacts):
    """What a latency map answers to a request's budget, in its latency scope."""

    scope: Scope = Field(description="The request's latency scope.")
    dense_ms: Ms = Field(description="The dense network.", examples=[43.0])
    min_ms: Ms = Field(description="The fastest config, as predicted.", examples=[11.2])
    max_ms: Ms = Field(description="The slowest config, as predicted.", examples=[43.0])
    nearest_ms: Ms = Field(description="The nearest possible budget.", examples=[11.8])
    budget_ms: Ms = Field(
        description="The request's budget; a share is one of dense_ms.", examples=[25.8]
    )
    feasible_share: Share = Field(
        description="Share of the configs predicted within the budget.", examples=[0.43]
    )
    reachable: bool = Field(
        description="Whether any is. Where none is, POST /search answers BUDGET_UNREACHABLE.",
        examples=[True],
    )


class DryRunResolution(DryRunLatency):
    """What is known of one of several inputs."""

    input: MapInput = Field(description="The input.")


class DryRunObject(ApiObject):
    """What is known of a search's latencies before it is started."""

    object: Literal["dry_run"] = Field(description="What this is.")
    request: SearchRequest = Field(description="The request with every default filled in.")
    inspection: Inspection = Field(
        description="`pending`: being measured, ask again. `failed`: see `error`; another try is "
        "made ten minutes later."
    )
    latency: DryRunLatency | None = Field(
        description="null unless `ready`. With several inputs: that of the first."
    )
    resolutions: list[DryRunResolution] | None = Field(
        description="Of a request with several inputs, of each; null unless `ready`. A share as "
        "budget is one of the first one's dense latency."
    )
    job: str = Field(
        description="The job that has measured it, or is about to.",
        examples=["/jobs/job_0198c5d2a7f07cc1a6a1f1d0c2b3e4f5"],
    )
    error: JobError | None = Field(description="Why `inspection` is `failed`; else null.")
    verdicts: list[str] = Field(
        description="What the user should know, such as HEAD_DOMINATES.", examples=[[]]
    )


def dry_run_object(dry_run: DryRun) -> Json:
    """A DryRunObject."""
    job, ready = dry_run.job, dry_run.inspection is Inspection.READY
    found = latency.figures_of(job) if ready and job.latency else []
    answers = [latency.answer(one, dry_run.request, found[0]) for one in found]
    several = [{"input": one["input"], **said} for one, said in zip(found, answers, strict=True)]
    return {
        "object": "dry_run",
        "request": dry_run.request,
        "inspection": dry_run.inspection,
        "latency": answers[0] if answers else None,
        "resolutions": several if len(several) > 1 else None,
        "job": f"/jobs/{job.id}",
        "error": job.error if dry_run.inspection is Inspection.FAILED else None,
        "verdicts": job.verdicts,
    }
