"""The figure of docs/search.md: hypervolume over evaluations, in the style of sparsevit.plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.search_strategies import LEAST_HYPERVOLUME, NAMES, SHOWN
from sparsevit import plots

STYLES: dict[str, dict[str, Any]] = {
    "evolution": {"color": plots.BLUE, "ls": "-"},
    "random": {"color": plots.INK, "ls": ":"},
    "released": {"color": plots.VERMILLION, "ls": "--"},
    "nsga2": {"color": plots.GREEN, "ls": "-."},
}


def hypervolume_png(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Mean over the seeds of each strategy, and the range of the seeds as a band."""
    figure = plots._figure(7.2, 4.4)
    axes = plots._plain_axes(figure)
    for name in NAMES:
        curves = np.array([run["hypervolume"] for run in runs[name]])
        evaluations = np.arange(1, curves.shape[1] + 1)
        style = STYLES[name]
        low, high = curves.min(axis=0), curves.max(axis=0)
        axes.fill_between(evaluations, low, high, color=style["color"], alpha=0.1, lw=0)
        axes.plot(evaluations, curves.mean(axis=0), lw=1.8, label=SHOWN.get(name, name), **style)
    axes.axhline(LEAST_HYPERVOLUME, color=plots.ORANGE, lw=1.2, label="target, at the end")
    axes.set_xlim(1, evaluations[-1])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("evaluations")
    axes.set_ylabel("share of the exhaustive front's hypervolume")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    figure.suptitle(
        f"Digits supernet, population 16: mean and range of {len(runs['evolution'])} seeds",
        fontsize=10.5,
        color=plots.INK,
    )
    return plots._png(figure)
