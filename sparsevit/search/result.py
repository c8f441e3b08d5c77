"""The documents of a finished search: the best config JSON and the points of the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import sparsevit
from sparsevit.deploy import SCHEMA_VERSION
from sparsevit.latency.measurement import Measurement
from sparsevit.search.choices import dense_ms
from sparsevit.search.pareto import pareto_front
from sparsevit.sparsity.config import Genes

if TYPE_CHECKING:
    from sparsevit.search.steps import Session
    from sparsevit.search.verify import Finalist, Verification


@dataclass(frozen=True)
class Scores:
    """A metric on one split, with its 95% interval."""

    value: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "interval": list(self.interval)}


def best_config(
    job: Verification,
    winner: Finalist,
    baseline: Finalist | None,
    dense: Scores,
    report: Mapping[Genes, Scores],
    receipt: Mapping[str, Any],
    macs: int,
) -> dict[str, Any]:
    """The best config JSON. report: scores on the report split by genes. receipt: the winner's."""
    session, model = job.session, job.session.model
    report_name = session.splits.report_name
    return {
        "schema_version": SCHEMA_VERSION,
        "architecture": model.backbone.config.to_dict(),
        "task": model.task,
        "weights": weights_document(session),
        "input": session.input,
        "preprocess": session.preprocess.to_dict(),
        **session.sparsity(winner.genes).to_dict(),
        "kept_windows": receipt["executed_windows"],
        "metric": {
            "name": model.metric["name"],
            **report[winner.genes].to_dict(),
            "dense": report[job.dense_genes].to_dict(),
            "split": report_name,
            "search": {
                **winner.scores.to_dict(),
                "dense": dense.to_dict(),
                "split": session.splits.search_name,
            },
        },
        "latency_ms": latency_document(job, winner),
        "macs": {"value": macs, "dense": job.macs(job.dense_genes)},
        "uniform": uniform_document(job, winner, baseline, report),
        "receipt": receipt["id"],
        "search": {
            **{k: job.search_facts.get(k) for k in ("job_id", "strategy", "seed", "stop")},
            "evaluations": len(job.search_facts["evaluations"]),
            "version": sparsevit.__version__,
        },
    }


def weights_document(session: Session) -> dict[str, Any]:
    """Which weights the numbers are of. source: the user's checkpoint, or what became of it."""
    return {
        "sha256": session.model.weights_sha256,
        "source": session.weights_source,
        "dialect": session.model.dialect,
    }


def latency_document(job: Verification, finalist: Finalist) -> dict[str, Any]:
    """Measured latency in the job's scope, and both scopes beside dense. predicted: by the map, at
    the speed of the device now; dense_calibrated: what dense took when the map was made."""
    latency = finalist.latency[job.scope]
    calibrated = dense_ms(job.latency_map, job.scope)
    speed = latency.reference_p50 / calibrated
    return {
        **{k: getattr(latency, k) for k in ("p50", "p90", "p99", "converged", "disturbed")},
        "interval": list(latency.interval),
        "budget": finalist.budget_ms,
        "dense": latency.reference_p50,
        "scope": job.scope,
        "device": job.session.device_facts["model"],
        "predicted": speed * job.predict(finalist.genes),
        "dense_calibrated": calibrated,
        "scopes": {scope: scope_document(m) for scope, m in finalist.latency.items()},
    }


def scope_document(latency: Measurement) -> dict[str, Any]:
    return {
        "p50": latency.p50,
        "interval": list(latency.interval),
        "dense": latency.reference_p50,
        "dense_interval": list(latency.reference_interval or ()),
        "ratio": latency.ratio,
    }


def uniform_document(
    job: Verification,
    winner: Finalist,
    baseline: Finalist | None,
    report: Mapping[Genes, Scores],
) -> dict[str, Any] | None:
    """The best uniform config within the budget, measured the same way; None where none is. gain: how
    far the winner's metric on the report split is above its."""
    if baseline is None:
        return None
    return {
        "ratio": baseline.genes[0] / 10,
        "metric": report[baseline.genes].to_dict(),
        "gain": report[winner.genes].value - report[baseline.genes].value,
        "metric_search": baseline.scores.to_dict(),
        "latency_ms": scope_document(baseline.latency[job.scope]),
    }


def front_points(
    job: Verification,
    timed: Sequence[Finalist],
    receipts: Mapping[Genes, Mapping[str, Any]],
    winner: Finalist,
) -> list[dict[str, Any]]:
    """The Pareto front of the search, fastest first, and every config that was measured.

    Dominance is that of the search: metric on the search split over predicted latency, which all
    evaluations have. `latency_ms` is there only where it was measured.
    """
    rows = {tuple(row["genes"]): row for row in job.search_facts["evaluations"]}
    costs = np.array([[row["latency_ms"], -row["metric"]] for row in rows.values()]).reshape(-1, 2)
    genes = list(rows)
    shown = dict.fromkeys([*(genes[i] for i in pareto_front(costs)), *(c.genes for c in timed)])
    on_front = {genes[i] for i in pareto_front(costs)}
    measured = {c.genes: c for c in timed}
    points = [
        front_point(job, one, rows.get(one), measured.get(one), receipts.get(one))
        | {"on_front": one in on_front, "winner": one == winner.genes}
        for one in shown
    ]
    return sorted(points, key=lambda point: point["latency_predicted"])


def front_point(
    job: Verification,
    genes: Genes,
    row: Mapping[str, Any] | None,
    finalist: Finalist | None,
    receipt: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """One point; row: its evaluation (none for a uniform config that the search did not propose)."""
    latency = finalist.latency[job.scope] if finalist else None
    return {
        "genes": list(genes),
        **job.session.sparsity(genes).to_dict(),
        "metric": finalist.scores.value if finalist else row["metric"],
        "metric_interval": list(finalist.scores.interval) if finalist else None,
        "split": job.session.splits.search_name,
        "latency_predicted": job.predict(genes),
        "latency_ms": latency.p50 if latency else None,
        "latency_interval": list(latency.interval) if latency else None,
        "measured": latency is not None,
        "receipt": receipt["id"] if receipt else None,
    }
