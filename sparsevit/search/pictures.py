"""The pictures of a finished search, as PNG bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsevit.plots import residuals_png, window_map_png
from sparsevit.search.choices import dense_ms
from sparsevit.search.latency_map import LatencyMap
from sparsevit.sparsity.config import Genes
from sparsevit.swin.coverage import layer_counts

if TYPE_CHECKING:
    from sparsevit.search.steps import Session
    from sparsevit.search.verify import Verification

WINDOW_IMAGES = 4


def pareto_drawing(
    job: Verification, document: Mapping[str, Any], front: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What `pareto_png` draws, as JSON: every evaluation, the front, dense, the budget, the winner
    and the uniform configs.

    The metric is that of the search split: it is the one all of them have. Predictions are brought
    to the speed of the device at the time of the measurements, which stand beside them.
    """
    metric, latency = document["metric"]["search"], document["latency_ms"]
    speed = latency["dense"] / dense_ms(job.latency_map, job.scope)

    def points(rows: Iterable[Mapping[str, Any]], field: str) -> list[list[float]]:
        return [[speed * row[field], row["metric"]] for row in rows]

    rows = job.search_facts["evaluations"]
    within = latency["interval"][1] <= latency["budget"]
    return {
        "points": points(rows, "latency_ms"),
        "front": points((p for p in front if p["on_front"]), "latency_predicted"),
        "dense": [latency["dense"], metric["dense"]["value"]],
        "budget_ms": latency["budget"],
        "winner": [latency["p50"], metric["value"]] if within else None,
        "uniform": points((row for row in rows if len(set(row["genes"])) == 1), "latency_ms"),
        "metric_name": f"{document['metric']['name']} ({metric['split']} split)",
    }


def window_picture(session: Session, genes: Genes) -> bytes:
    """Images of the search split, each window coloured by the number of layers that computed it."""
    count = min(max(1, WINDOW_IMAGES // session.model.views), len(session.splits.search))
    session.model.set_sparsity(session.sparsity(genes))
    counts = layer_counts(session.model.backbone, session.latency_images(count))
    samples = (session.splits.search.sample(i)[0] for i in range(count))
    images = np.stack([crop for image in samples for crop in session.preprocess.crops(image)])
    images = images[: len(counts)]
    layers = sum(session.model.backbone.config.depths)
    return window_map_png(images, counts, layers, "Layers that computed each window")


def latency_picture(latency_map: LatencyMap) -> bytes | None:
    """What the map predicted over what whole models took; None where none were measured."""
    accuracy = latency_map.accuracy
    if accuracy is None:
        return None
    return residuals_png(
        accuracy["predicted_ms"],
        accuracy["measured_ms"],
        accuracy["noise_floor"],
        f"Latency map: off by {accuracy['mean_error']:.1%} on average over "
        f"{accuracy['configs']} whole models",
    )
