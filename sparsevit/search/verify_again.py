"""The proof after fine-tuning: the winner's config, scored and timed with the weights made for it.

What it is compared with stays as it was: dense and uniform configs have the weights of before, and
so has the front, whose other points nobody fine-tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparsevit.errors import DeviceDisturbed
from sparsevit.search.result import latency_document, weights_document
from sparsevit.search.verify import MEASUREMENTS, Finalist, Progress, Store, Verification

if TYPE_CHECKING:
    from sparsevit.sparsity.config import Genes


def verify_again(
    job: Verification, found: Mapping[str, Any], artefacts: Store, progress: Progress | None = None
) -> dict[str, Any]:
    """{"document", "front", "receipts", "artefacts", "error"}, as `Verification.run` gives them.

    Raises DeviceDisturbed where no quiet moment was found: that passes, and the weights are dear.
    """
    winner = measured(job, winner_of(found), progress or (lambda done, total: None))
    receipt = job.receipt(winner)
    kept = {"front": found["front"], "receipts": {receipt["id"]: receipt}}
    if winner.violation(job.scope) > 0:
        error = job.no_winner([winner], winner)
        return {**kept, "document": None, "artefacts": found["artefacts"], "error": error}
    document = updated(job, found["document"], winner, receipt)
    pictures = {**found["artefacts"], **job.window_map(winner.genes, artefacts)}
    return {**kept, "document": document, "artefacts": pictures, "error": None}


def winner_of(found: Mapping[str, Any]) -> Genes:
    """The genes of the best config."""
    return next(tuple(point["genes"]) for point in found["front"] if point["winner"])


def measured(job: Verification, genes: Genes, report: Progress) -> Finalist:
    """The winner again, a few times at most: it ran within the budget before, and its weights do
    not change how long it takes."""
    for _ in range(MEASUREMENTS):
        (finalist,) = job.enter([genes], report)
        if not finalist.latency[job.scope].disturbed and finalist.violation(job.scope) == 0:
            return finalist
    if finalist.latency[job.scope].disturbed:
        raise DeviceDisturbed(job.no_winner([finalist], finalist)["message"])
    return finalist


def updated(
    job: Verification,
    before: Mapping[str, Any],
    winner: Finalist,
    receipt: Mapping[str, Any],
) -> dict[str, Any]:
    """The best config JSON with the fine-tuned weights' numbers."""
    report = job.score(job.session.splits.report, [winner.genes])[winner.genes]
    metric = before["metric"]
    return {
        **before,
        "weights": weights_document(job.session),
        "metric": {
            **metric,
            **report.to_dict(),
            "before_finetune": {"value": metric["value"], "interval": metric["interval"]},
            "search": {**metric["search"], **winner.scores.to_dict()},
        },
        "latency_ms": latency_document(job, winner),
        "kept_windows": receipt["executed_windows"],
        "receipt": receipt["id"],
    }
