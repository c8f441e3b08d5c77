"""The figure of a comparison: metric over measured latency (the paper's Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsevit import plots

STYLES: dict[str, dict[str, Any]] = {
    "resolution": {"color": plots.BLUE, "marker": "s", "ls": "--"},
    "width": {"color": plots.ORANGE, "marker": "D", "ls": ":"},
    "uniform": {"color": plots.GREEN, "marker": "^", "ls": "-."},
    "searched": {"color": plots.VERMILLION, "marker": "*", "ms": 12, "ls": "-"},
}
LABELS = {
    "resolution": "dense, fewer pixels (R)",
    "width": "dense, fewer channels (W)",
    "uniform": "sparse, uniform",
    "searched": "sparse, searched",
}


def tradeoff_png(document: Mapping[str, Any]) -> bytes:
    """One curve for each way to be faster; points are means over the seeds, bars their range. Each
    begins at the dense model but for the sparse ones, whose weights are adapted."""
    figure = plots._figure(7.2, 4.6)
    axes = plots._plain_axes(figure)
    scope = document["scope"]
    points = {
        kind: np.array([_point(row, scope) for row in document["rows"] if row["kind"] == kind])
        for kind in ("dense", *STYLES)
    }
    for kind, style in STYLES.items():
        curve = points[kind]
        if not len(curve):
            continue
        if kind in ("resolution", "width"):
            curve = np.concatenate([curve, points["dense"]])
        curve = curve[np.argsort(curve[:, 0], kind="stable")]
        axes.errorbar(
            curve[:, 0],
            curve[:, 1],
            yerr=np.abs(curve[:, 2:] - curve[:, 1:2]).T,
            capsize=2.5,
            elinewidth=1.0,
            lw=1.4,
            label=LABELS[kind],
            **{"ms": 6, **style},
        )
    dense = points["dense"][0]
    axes.plot(*dense[:2], color=plots.INK, ls="none", marker="o", ms=8, label="dense", zorder=5)
    for row in document["rows"]:
        if row["kind"] in ("resolution", "width"):
            place = _point(row, scope)[:2]
            style = {"xytext": (6, -10), "textcoords": "offset points", "color": plots.INK}
            axes.annotate(row["name"], place, fontsize=8, **style)
    axes.set_xlabel(f"measured latency of the {scope} (ms)")
    axes.set_ylabel(f"{document['metric']} ({document['split']} split, %)")
    axes.margins(0.06)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return plots._png(figure)


def _point(row: Mapping[str, Any], scope: str) -> tuple[float, ...]:
    """(ms, metric, its lowest, its highest), the metric in percent."""
    metric = row["metric"]
    return (
        row["latency_ms"][scope]["mean"],
        *(100 * metric[name] for name in ("mean", "low", "high")),
    )
