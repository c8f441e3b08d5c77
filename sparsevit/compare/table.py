"""What a comparison found: its rows, and what they say of each other."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsevit.compare.plan import Plan
from sparsevit.compare.rows import SPARSE, Row, place_key, sparse_for
from sparsevit.compare.settings import CompareSettings
from sparsevit.search.latency_map import SCOPES

Results = Sequence[Mapping[str, Mapping[str, Any]]]
"""For each seed by row: what `run_compare` stores of it."""

SAME_LATENCY = 1.02
"""A latency up to this share of another's is no slower: the meter lets a device drift as far."""


def comparison(
    plan: Plan,
    seeds: Results,
    latency: Mapping[str, Any],
    settings: CompareSettings,
    metric: str,
    split: str,
) -> dict[str, Any]:
    """The document, JSON: {"metric", "split", "seeds", "scope", "input", "device", "host", "versions",
    "settings", "rows", "verdicts", "notes"}.

    A row's numbers are means over the seeds; "metric" and "latency_ms" have every seed's beside them.
    """
    rows = [_row(row, seeds, latency["places"]) for row in plan.rows]
    facts = {name: latency[name] for name in ("input", "device", "host", "versions")}
    return {
        "metric": metric,
        "split": split,
        "seeds": len(seeds),
        "scope": settings.scope,
        **facts,
        "settings": settings.question(),
        "rows": rows,
        "verdicts": _verdicts(plan, {row["name"]: row for row in rows}, settings.scope),
        "notes": [*plan.notes, *_disturbed(rows)],
    }


def _row(row: Row, seeds: Results, places: Mapping[str, Any]) -> dict[str, Any]:
    results = [seed[row.name] for seed in seeds]
    at = [places[place_key(row, tuple(one["genes"]))] for one in results]
    return {
        "name": row.name,
        "kind": row.kind,
        "size": list(row.size),
        "against": list(row.against),
        "channels": at[0]["channels"],
        "padding": at[0]["padding"],
        "sparsity": [[level / 10 for level in one["genes"]] for one in results],
        "parameters": at[0]["parameters"],
        "macs": _mean(one["macs"] for one in at),
        "latency_ms": {scope: _latency([p["latency_ms"][scope] for p in at]) for scope in SCOPES},
        "metric": _spread([one["metric"] for one in results]),
        "intervals": [one["interval"] for one in results],
        "details": {
            name: _mean(one["details"][name] for one in results) for name in results[0]["details"]
        },
        "training": {
            "steps": [_total(one, "steps") for one in results],
            "seconds": _mean(_total(one, "seconds") for one in results),
            "cpu_seconds": _mean(_total(one, "cpu_seconds") for one in results),
        },
        "search_seconds": _mean(one["search_seconds"] or 0.0 for one in results),
    }


def _latency(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """At the speed of the reference, which is the same for all rows."""
    corrected = [one["ratio"] * one["reference_p50"] for one in measured]
    return {
        **_spread(corrected),
        "intervals": [
            [bound * one["reference_p50"] for bound in one["ratio_interval"]] for one in measured
        ],
        "of_dense": _mean(one["ratio"] for one in measured),
        "disturbed": any(one["disturbed"] for one in measured),
    }


def _total(result: Mapping[str, Any], name: str) -> float:
    """Of a sparse row adaptation and fine-tuning together."""
    adaptation = result["adaptation"]
    return result[name] + (adaptation[name] if adaptation else 0)


def _verdicts(
    plan: Plan, rows: Mapping[str, Mapping[str, Any]], scope: str
) -> list[dict[str, Any]]:
    """Sparse against each dense row whose latency it met, and searched against uniform."""
    found = []
    for name in plan.budgets:
        uniform, searched = (rows[sparse_for(plan.rows, kind, name).name] for kind in SPARSE)
        uniforms = [row for row in rows.values() if row["kind"] == "uniform"]
        beside = _as_slow(searched, uniforms, scope) or uniform
        for better, worse in ((searched, rows[name]), (uniform, rows[name]), (searched, beside)):
            found.append(_verdict(better, worse, scope))
    return found


def _as_slow(
    searched: Mapping[str, Any], uniforms: Sequence[Mapping[str, Any]], scope: str
) -> Mapping[str, Any] | None:
    """The fastest uniform row that is no faster, if there is one. Uniform ratios come in steps: the
    densest one within a budget may be much faster than what was searched for it."""

    def ms(row: Mapping[str, Any]) -> float:
        return float(row["latency_ms"][scope]["mean"])

    slower = [row for row in uniforms if ms(searched) <= SAME_LATENCY * ms(row)]
    return min(slower, key=ms, default=None)


def _verdict(one: Mapping[str, Any], other: Mapping[str, Any], scope: str) -> dict[str, Any]:
    """holds: better with every seed, and no slower."""
    gains = [a - b for a, b in zip(one["metric"]["seeds"], other["metric"]["seeds"], strict=True)]
    ratio = one["latency_ms"][scope]["mean"] / other["latency_ms"][scope]["mean"]
    return {
        "row": one["name"],
        "against": other["name"],
        "gain": _spread(gains),
        "latency_ratio": ratio,
        "holds": min(gains) > 0 and ratio <= SAME_LATENCY,
    }


def _disturbed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [
        row["name"] for row in rows if any(one["disturbed"] for one in row["latency_ms"].values())
    ]
    if not names:
        return []
    return [
        "Other work disturbed the latencies of "
        + ("all rows" if len(names) == len(rows) else ", ".join(names))
        + ": time them again when the device is quiet (--time-again)."
    ]


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": _mean(values),
        "low": float(min(values)),
        "high": float(max(values)),
        "seeds": [float(value) for value in values],
    }


COLUMNS = (
    "name", "kind", "height", "width", "channels", "padding", "sparsity", "parameters", "macs",
    "backbone_ms", "model_ms", "backbone_of_dense", "model_of_dense", "disturbed", "metric",
    "metric_low", "metric_high",
)  # fmt: skip


def csv_text(document: Mapping[str, Any]) -> str:
    """One line for each row: means over the seeds, in the units of their names; metrics as shares."""
    details = list(document["rows"][0]["details"])
    training = ("train_seconds", "train_cpu_seconds", "search_seconds")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*COLUMNS, *details, *training])
    for row in document["rows"]:
        latency, metric = row["latency_ms"], row["metric"]
        writer.writerow(
            [
                row["name"],
                row["kind"],
                *row["size"],
                row["channels"][0],
                round(row["padding"], 4),
                " | ".join(dict.fromkeys(sparsity_text(one) for one in row["sparsity"])),
                row["parameters"],
                round(row["macs"]),
                *(round(latency[scope]["mean"], 4) for scope in ("backbone", "model")),
                *(round(latency[scope]["of_dense"], 4) for scope in ("backbone", "model")),
                any(one["disturbed"] for one in latency.values()),
                *(metric[name] for name in ("mean", "low", "high")),
                *(row["details"][name] for name in details),
                row["training"]["seconds"],
                row["training"]["cpu_seconds"],
                row["search_seconds"],
            ]
        )
    return file.getvalue()


def sparsity_text(ratios: Sequence[float]) -> str:
    """'.3 0 .1', one for each block pair; '-' for a dense row."""
    if not any(ratios):
        return "-"
    return " ".join(f"{ratio:g}".removeprefix("0") or "0" for ratio in ratios)
