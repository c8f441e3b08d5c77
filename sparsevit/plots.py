"""The pictures of a search: its Pareto front, where the network looked, and how far the latency map
was off.

Each function returns a PNG. matplotlib is imported where it is used, and figures are made without
pyplot, so that drawing neither needs a display nor leaves state behind. Colours are those of Okabe
and Ito, and viridis: both can be told apart without colour vision, and markers differ too.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm, Colormap
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, GREY, PALE = "#222222", "#8A8A8A", "#DDDDDD"
DPI = 150
IMAGES_ACROSS = 2
PANEL_INCHES = 2.5
BAR_INCHES = 0.18
WIDE = 0.7
"""Images flatter than this (height over width) stand one in a row."""
MOST_TICKS = 8
OVERLAY = 0.7
"""Share of the colour over the (grey) image in a window map."""


def pareto_png(
    points: ArrayLike,
    front: ArrayLike,
    dense: tuple[float, float],
    budget_ms: float,
    winner: tuple[float, float] | None,
    uniform: ArrayLike,
    metric_name: str,
) -> bytes:
    """Metric over latency for everything a search evaluated.

    points: every evaluation, [n, 2] as (latency ms, metric); those beyond budget_ms are drawn
    hollow. front: the Pareto front, [k, 2]. dense, winner: one point each; no winner: None.
    uniform: the uniform configs, [m, 2], may be empty.
    """
    figure = _figure(7.2, 4.6)
    axes = _plain_axes(figure)
    evaluated, best, same = (_pairs(p) for p in (points, front, uniform))
    within = evaluated[:, 0] <= budget_ms
    style: dict[str, Any] = {"color": BLUE, "alpha": 0.45, "mew": 0}
    axes.plot(*evaluated[within].T, ls="none", marker="o", ms=4, label="within budget", **style)
    if not within.all():
        style = {"mfc": "none", "mec": GREY, "mew": 0.7}
        axes.plot(*evaluated[~within].T, ls="none", marker="o", ms=4, label="over budget", **style)
    best = best[np.argsort(best[:, 0], kind="stable")]
    axes.plot(*best.T, color=BLUE, lw=1.6, marker="o", ms=4.5, label="Pareto front", zorder=3)
    same = same[np.argsort(same[:, 0], kind="stable")]
    if len(same):
        style = {"color": GREEN, "lw": 1.0, "ls": ":", "marker": "^", "ms": 6, "zorder": 4}
        axes.plot(*same.T, label="uniform sparsity", **style)
    axes.plot(*dense, color=INK, ls="none", marker="s", ms=7, label="dense", zorder=5)
    if winner is not None:
        style = {"color": VERMILLION, "mec": "white", "mew": 0.8, "marker": "*", "ms": 16}
        axes.plot(*winner, ls="none", label="winner", zorder=6, **style)
    axes.axvline(budget_ms, color=ORANGE, lw=1.6, ls="--", zorder=2)
    axes.annotate(
        f"budget {budget_ms:.4g} ms",
        (budget_ms, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        color=INK,
        fontsize=9,
    )
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel(metric_name)
    axes.margins(0.06)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return _png(figure)


def window_map_png(images: ArrayLike, layer_counts: ArrayLike, layers: int, title: str) -> bytes:
    """Which windows were computed, and how often (the paper's figure 5).

    images: uint8 [n, H, W, 3]. layer_counts: integers [n, rows, columns], the number of layers
    that computed each window of a grid over the image (or each pixel: [n, H, W]), 0 to `layers`.
    Each map stands beside its image. Raises ValueError where the shapes do not fit together.
    """
    from matplotlib.cm import ScalarMappable

    pictures, counts = np.asarray(images), np.asarray(layer_counts)
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or not len(pictures):
        raise ValueError("images must be uint8 [n, H, W, 3].")
    if counts.ndim != 3 or len(counts) != len(pictures):
        raise ValueError("layer_counts must be [n, rows, columns], one grid for each image.")
    flatness = pictures.shape[1] / pictures.shape[2]
    across = min(len(pictures), IMAGES_ACROSS if flatness > WIDE else 1)
    rows = -(-len(pictures) // across)
    height = rows * PANEL_INCHES * flatness
    figure = _figure(2 * across * PANEL_INCHES + 0.9, height + 0.6)
    panels = figure.subplots(rows, 2 * across, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    colours, norm = _layer_colours(layers)
    extent = (0, pictures.shape[2], pictures.shape[1], 0)
    for picture, count, (original, overlaid) in zip(
        pictures, counts, panels.reshape(-1, 2), strict=False
    ):
        original.imshow(picture, extent=extent)
        # A pale grey image below leaves the colours close to those of the bar.
        overlaid.imshow(picture.mean(axis=-1), cmap="gray", vmin=-128, vmax=255, extent=extent)
        style: dict[str, Any] = {"interpolation": "nearest", "alpha": OVERLAY, "extent": extent}
        overlaid.imshow(count, cmap=colours, norm=norm, **style)
    ticks = np.arange(0, layers + 1, max(1, -(-layers // MOST_TICKS)))
    thin = max(6.0, 0.8 * height / BAR_INCHES)
    scale = ScalarMappable(norm, colours)  # not of an image: the bar shall not be translucent
    bar = figure.colorbar(scale, ax=panels, shrink=0.8, aspect=thin, pad=0.015, ticks=ticks)
    bar.outline.set_visible(False)
    bar.ax.set_title("layers", loc="left", fontsize=9, color=INK)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=8, length=0, colors=INK)
    figure.suptitle(title, fontsize=10.5, color=INK)
    return _png(figure)


def residuals_png(
    predicted: ArrayLike, measured: ArrayLike, noise_floor: float, title: str
) -> bytes:
    """Predicted against measured latency of the same configs, and how far each is off.

    predicted, measured: [n] in ms. noise_floor: as a share; twice of it is shaded, since no
    prediction can be better than that.
    """
    sums, seen = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    if sums.shape != seen.shape or sums.ndim != 1 or not len(sums):
        raise ValueError("predicted and measured must be [n], one each for every config.")
    figure = _figure(5.6, 5.6)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    for axes in (top, below):
        _plain(axes)
    ends = [min(sums.min(), seen.min()), max(sums.max(), seen.max())]
    style: dict[str, Any] = {"ls": "none", "marker": "o", "ms": 5, "mew": 0, "color": BLUE}
    top.plot(ends, ends, color=GREY, lw=1.0, label="exact")
    top.plot(seen, sums, label="configs", **style)
    top.set_ylabel("predicted (ms)")
    top.legend(loc="upper left", frameon=False, fontsize=9)
    band = 200 * noise_floor
    label = "twice the noise floor"
    below.axhspan(-band, band, color=ORANGE, alpha=0.25, lw=0, label=label)
    below.axhline(0, color=GREY, lw=1.0)
    below.plot(seen, 100 * (sums / seen - 1), **style)
    below.set_ylabel("off by (%)")
    below.set_xlabel("measured (ms)")
    below.legend(loc="best", frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10.5, color=INK)
    return _png(figure)


def _layer_colours(layers: int) -> tuple[Colormap, BoundaryNorm]:
    """One colour for each count from 0 to `layers`, and the norm that picks it."""
    import matplotlib
    from matplotlib.colors import BoundaryNorm

    colours = matplotlib.colormaps["viridis"].resampled(layers + 1)
    return colours, BoundaryNorm(np.arange(layers + 2) - 0.5, layers + 1)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _plain_axes(figure: Figure) -> Axes:
    return _plain(figure.add_subplot())


def _plain(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color=PALE, lw=0.6)
    axes.set_axisbelow(True)
    return axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # No metadata: the same figure gives the same bytes.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _pairs(points: ArrayLike) -> np.ndarray:
    return np.asarray(points, np.float64).reshape(-1, 2)
