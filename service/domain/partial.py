"""A config before its search has ended: what `GET /jobs/{id}/config?partial=true` hands out."""

from __future__ import annotations

from service.domain.records import Evaluation, Job, Json

SCHEMA_VERSION = 1
"""Of the best config JSON, as `sparsevit.deploy` reads it."""


def partial_config(job: Job, best: Evaluation) -> Json:
    """The best config document of a candidate, as far as it is known: evaluated on the search split,
    its latency predicted by the latency map, nothing measured.

    The job is past its inspection: one of its candidates was evaluated.
    """
    assert job.inspection is not None, "candidates are proposed after the inspection"
    found = job.inspection
    if job.resolutions is not None:
        found = {**found, **found["resolutions"][best.resolution]}
    pairs = found["architecture"]["pairs"]
    weights = job.weights or {"sha256": found["checkpoint_sha256"], "source": "checkpoint"}
    return {
        "schema_version": SCHEMA_VERSION,
        "partial": True,
        "architecture": {k: v for k, v in found["architecture"].items() if k != "pairs"},
        "task": found["task"],
        "weights": weights,
        "input": found["input"],
        "preprocess": found["preprocess"],
        "sparsity": sparsity(best.genes, pairs),
        "score": found["score"],
        "metric": {
            "name": found["metric"]["name"],
            "value": best.metric,
            "split": job.request["dataset"]["search_split"],
        },
        "latency_ms": {
            "predicted": best.latency_ms,
            "scope": job.request["latency_scope"],
            "device": job.device,
        },
        "receipt": None,
        "search": {
            "job_id": job.id,
            "strategy": job.request["search"]["strategy"],
            "seed": job.request["search"]["seed"],
            "evaluations": job.progress["done"],
        },
    }


def sparsity(genes: list[int], pairs: list[int]) -> list[list[float]]:
    """The sparsity ratio of each block pair, by stage. genes: in tenths, one a pair."""
    ends = [sum(pairs[: stage + 1]) for stage in range(len(pairs))]
    return [
        [level / 10 for level in genes[end - count : end]]
        for end, count in zip(ends, pairs, strict=True)
    ]
