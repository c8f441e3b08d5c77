"""What jobs hand out at their end, as workers stored it: best config, Pareto front, receipts.

The models describe these documents and check nothing: they go out as they were stored, and one of
another version may have fields more.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.described import JOB_ID, SHA256
from service.api.latency_objects import Ms
from service.api.plain import ApiObject
from service.domain.specs import Scope, Strategy

Interval = Annotated[list[float], Field(min_length=2, max_length=2)]

RECEIPT_ID = "receipt_5d41402abc4b2a76b971"
SPARSITY = [[0.0], [0.3], [0.3, 0.5, 0.6]]
WINDOWS = [[256, 256], [44, 44], [11, 11, 8, 8, 6, 6]]
INPUT = {
    "height": 448,
    "width": 448,
    "batch": 1,
    "precision": "fp32",
    "mode": "eager",
    "threads": 1,
}
PREPROCESS = {
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "channels": "rgb",
    "resize": [448, 448],
    "interpolation": "bilinear",
    "crop_pct": None,
    "crop_at": "middle",
    "slide": None,
}
ARCHITECTURE = {
    "in_channels": 3,
    "patch_size": 4,
    "embed_dim": 24,
    "depths": [2, 2, 6],
    "num_heads": [1, 2, 4],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "small_map": "shift",
    "absolute_positions": None,
}


class StoredObject(BaseModel):
    """A piece of a stored document."""

    model_config = ConfigDict(extra="allow")


class ConfigWeights(StoredObject):
    """Which weights the numbers are of; the config runs with no others."""

    sha256: str = Field(description="Of the weights.", examples=[SHA256])
    source: Literal["checkpoint", "adapted", "finetuned"] = Field(
        description="The checkpoint as submitted, or what the job made of it."
    )
    dialect: str | None = Field(
        None, description="Whose names the weights' tensors have.", examples=["timm"]
    )


class SplitScore(StoredObject):
    """A metric on one split."""

    value: float = Field(description="The metric.", examples=[0.781])
    interval: Interval = Field(description="Its 95% interval.", examples=[[0.772, 0.79]])


class SearchScore(SplitScore):
    """The metric on the split the search was made on."""

    dense: SplitScore = Field(description="That of the dense model.")
    split: str = Field(description="The split.", examples=["val"])


class ConfigMetric(StoredObject):
    """What the config reaches on the split the search never saw."""

    name: str = Field(description="Name of the metric.", examples=["top1"])
    value: float = Field(description="The metric.", examples=[0.776])
    interval: Interval | None = Field(
        None, description="Its 95% interval.", examples=[[0.765, 0.787]]
    )
    dense: SplitScore | None = Field(None, description="That of the dense model.")
    split: str = Field(description="The split it was scored on.", examples=["val:holdout"])
    search: SearchScore | None = Field(None, description="The metric on the search split.")
    before_finetune: SplitScore | None = Field(
        None, description="Of a fine-tuned config: what it reached with the weights before."
    )


class ScopeLatency(StoredObject):
    """A latency in one scope, beside that of the dense model, measured in the same rounds."""

    p50: Ms = Field(description="Median, in milliseconds.", examples=[25.1])
    interval: Interval = Field(description="99% interval of the median.", examples=[[24.9, 25.4]])
    dense: Ms = Field(description="Median of the dense model.", examples=[43.0])
    dense_interval: list[float] = Field(
        description="99% interval of that.", examples=[[42.7, 43.3]]
    )
    ratio: float | None = Field(description="Latency over dense, drift-corrected.", examples=[0.58])


class ScopeLatencies(StoredObject):
    """Latencies by scope."""

    model: ScopeLatency = Field(description="From the image tensor to the predictions.")
    backbone: ScopeLatency = Field(description="Of the backbone alone, as in the paper.")


class ConfigLatency(StoredObject):
    """The latency in the job's scope, in milliseconds. Of a partial config only what was predicted."""

    p50: Ms | None = Field(None, description="Median.", examples=[25.1])
    p90: Ms | None = Field(None, description="90th percentile.", examples=[25.9])
    p99: Ms | None = Field(None, description="99th percentile.", examples=[27.0])
    converged: bool | None = Field(
        None, description="Whether the interval became as narrow as asked for.", examples=[True]
    )
    disturbed: bool | None = Field(
        None, description="Whether other work on the device made it unsure.", examples=[False]
    )
    interval: Interval | None = Field(
        None,
        description="99% interval of the median; its upper end is within the budget.",
        examples=[[24.9, 25.4]],
    )
    budget: Ms | None = Field(None, description="What it had to meet.", examples=[25.8])
    dense: Ms | None = Field(None, description="Median of the dense model.", examples=[43.0])
    scope: Scope = Field(description="What was timed.")
    device: str | None = Field(
        description="Device model it was timed on.", examples=["NVIDIA H100 80GB HBM3"]
    )
    predicted: Ms = Field(description="By the latency map.", examples=[25.3])
    dense_calibrated: Ms | None = Field(
        None, description="What dense took when the map was made.", examples=[42.8]
    )
    scopes: ScopeLatencies | None = Field(None, description="Both scopes.")


class Macs(StoredObject):
    """Multiply-accumulates of the whole model for one image."""

    value: int = Field(description="Of the config.", examples=[2_900_000_000])
    dense: int = Field(description="Of the dense model.", examples=[4_500_000_000])


class Uniform(StoredObject):
    """The best config with one ratio everywhere within the budget, measured the same way."""

    ratio: float = Field(description="Its sparsity ratio.", examples=[0.4])
    metric: SplitScore = Field(description="Its metric on the report split.")
    gain: float = Field(description="How far the best config's metric is above.", examples=[0.013])
    metric_search: SplitScore = Field(description="Its metric on the search split.")
    latency_ms: ScopeLatency = Field(description="Its latency in the job's scope.")


class ConfigSearch(StoredObject):
    """Where the config comes from."""

    job_id: str | None = Field(description="The job.", examples=[JOB_ID])
    strategy: Strategy = Field(description="Who proposed candidates.")
    seed: int = Field(description="The search's seed.", examples=[0])
    stop: str | None = Field(None, description="Why it ended.", examples=["no_gain"])
    evaluations: int = Field(description="Candidates evaluated.", examples=[1800])
    version: str | None = Field(None, description="Of the library.", examples=["0.1.0"])


class ConfigObject(StoredObject):
    """The best config: `sparsevit.load_config` reads it, and with its weights it is enough."""

    schema_version: int = Field(description="Version of this form.", examples=[1])
    partial: bool = Field(
        False,
        description="Whether it is only the best so far: nothing is measured then.",
        examples=[False],
    )
    architecture: dict[str, Any] = Field(
        description="Settings of the backbone.", examples=[ARCHITECTURE]
    )
    task: str = Field(description="What the model does.", examples=["classification"])
    weights: ConfigWeights = Field(description="The weights it was measured with.")
    input: dict[str, Any] = Field(
        description="height, width, batch, precision, mode and threads it was measured with.",
        examples=[INPUT],
    )
    preprocess: dict[str, Any] | None = Field(
        description="How images become its input; `resize`: (height, width).",
        examples=[PREPROCESS],
    )
    sparsity: list[list[float]] = Field(
        description="Share of windows dropped: by stage, one ratio for each block pair.",
        examples=[SPARSITY],
    )
    score: str = Field(description="Window score.", examples=["variance"])
    kept_windows: list[list[int]] | None = Field(
        None, description="Windows each block computes, by stage.", examples=[WINDOWS]
    )
    metric: ConfigMetric = Field(description="What it reaches.")
    latency_ms: ConfigLatency = Field(description="What it takes.")
    macs: Macs | None = Field(None, description="What it computes.")
    uniform: Uniform | None = Field(
        None, description="What one ratio everywhere would reach; null: none is within the budget."
    )
    receipt: str | None = Field(
        description="Id of its latency's receipt; null where nothing was measured.",
        examples=[RECEIPT_ID],
    )
    search: ConfigSearch = Field(description="Where it comes from.")


class FrontPoint(StoredObject):
    """A config that no other one beats in metric and latency, or one that was measured."""

    genes: list[int] = Field(
        description="Sparsity level (tenths dropped) of each block pair.",
        examples=[[0, 3, 3, 5, 6]],
    )
    sparsity: list[list[float]] = Field(
        description="The same as ratios, by stage.", examples=[SPARSITY]
    )
    score: str = Field(description="Window score.", examples=["variance"])
    metric: float = Field(description="On the search split.", examples=[0.781])
    metric_interval: Interval | None = Field(
        description="Its 95% interval; null unless measured.", examples=[[0.772, 0.79]]
    )
    split: str = Field(description="The search split.", examples=["val"])
    latency_predicted: Ms = Field(description="By the latency map.", examples=[25.3])
    latency_ms: Ms | None = Field(
        description="Median as measured; null: it was not.", examples=[25.1]
    )
    latency_interval: Interval | None = Field(
        description="99% interval of that.", examples=[[24.9, 25.4]]
    )
    measured: bool = Field(description="Whether it was timed end to end.", examples=[True])
    receipt: str | None = Field(description="Id of the receipt.", examples=[RECEIPT_ID])
    on_front: bool = Field(
        description="Whether no other one beats it; false: shown because it was measured.",
        examples=[True],
    )
    winner: bool = Field(description="Whether it is the best config.", examples=[True])
    input: dict[str, Any] | None = Field(
        None, description="Of a job with several inputs: the one it is for.", examples=[INPUT]
    )


class FrontObject(ApiObject):
    """The Pareto front of a job."""

    object: Literal["pareto_front"] = Field(description="What this is.")
    job_id: str = Field(description="The job's id.", examples=[JOB_ID])
    data: list[FrontPoint] = Field(
        description="The front over all evaluations on the search split, fastest first, and every "
        "config that was measured."
    )
