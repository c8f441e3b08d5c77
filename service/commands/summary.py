"""The table at the end of a search: dense against the best config, from the best config JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

Document = Mapping[str, Any]


def summary_table(document: Document) -> Table:
    """Metric and measured latency with their intervals, MACs, and windows kept in each stage."""
    metric, latency = document["metric"], document["latency_ms"]
    title = (
        f"{metric['name']} on the {metric['split']} split; latency of the {latency['scope']} on "
        f"{latency['device']}, budget {latency['budget']:.2f} ms"
    )
    table = Table(title=title, title_justify="left", title_style="")
    table.add_column("")
    for name in ("dense", "best config"):
        table.add_column(name, justify="right")
    for row in rows(document):
        table.add_row(*row)
    return table


def rows(document: Document) -> list[tuple[str, str, str]]:
    """(what, dense, best config) of each line."""
    metric, latency, macs = document["metric"], document["latency_ms"], document["macs"]
    dense_interval = latency["scopes"][latency["scope"]]["dense_interval"]
    dense = metric["dense"]
    return [
        (
            f"{metric['name']} (95% interval)",
            with_interval(dense["value"], dense["interval"], 3),
            with_interval(metric["value"], metric["interval"], 3),
        ),
        (
            "latency, ms (99% interval)",
            with_interval(latency["dense"], dense_interval, 2),
            with_interval(latency["p50"], latency["interval"], 2),
        ),
        ("  of dense", "100%", f"{latency['p50'] / latency['dense']:.0%}"),
        ("MACs", f"{macs['dense'] / 1e9:.2f} G", f"{macs['value'] / 1e9:.2f} G"),
        *stage_rows(document),
    ]


def with_interval(value: float, interval: Sequence[float], digits: int) -> str:
    """'0.912 (0.905 to 0.918)'."""
    low, high = interval
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def stage_rows(document: Document) -> list[tuple[str, str, str]]:
    """Windows computed per image in each stage, summed over its blocks."""
    all_windows = dense_windows(document)
    found = []
    for number, (kept, total) in enumerate(
        zip(document["kept_windows"], all_windows, strict=True), start=1
    ):
        share = sum(kept) / (total * len(kept))
        found.append(
            (f"windows, stage {number}", str(total * len(kept)), f"{sum(kept)} ({share:.0%})")
        )
    return found


def dense_windows(document: Document) -> list[int]:
    """Windows per image of one block in each stage: each stage halves the tokens, rounded up."""
    shape, architecture = document["input"], document["architecture"]
    patch, window = architecture["patch_size"], architecture["window_size"]
    height, width = -(-shape["height"] // patch), -(-shape["width"] // patch)
    counts = []
    for _ in architecture["depths"]:
        counts.append(-(-height // window) * -(-width // window))
        height, width = -(-height // 2), -(-width // 2)
    return counts
