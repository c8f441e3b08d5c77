"""`run_compare`: the paper's comparison on one's own model, data and device.

    plan     reduced resolutions and widths, their latencies, budgets, steps of each row (plan.py)
    a seed   dense rows trained; adaptation, then for each budget a search; sparse rows fine-tuned; all
             scored on the report split
    time     every model and config in turns, model and backbone
    table    rows, verdicts, figure (table.py, figure.py)

All rows start from the same checkpoint and train for the same time, see plan.py. The search's own
time is not training: it is stated apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsevit.compare.figure import tradeoff_png
from sparsevit.compare.models import Models
from sparsevit.compare.plan import Plan, Progress, settled
from sparsevit.compare.rows import Row, place_key
from sparsevit.compare.seed import SeedRun
from sparsevit.compare.settings import CompareSettings
from sparsevit.compare.sizes import padding_ratio
from sparsevit.compare.store import Store
from sparsevit.compare.table import comparison, csv_text
from sparsevit.compare.timing import timed
from sparsevit.data.sources import dataset_spec
from sparsevit.latency.receipt import host_facts, library_versions
from sparsevit.search.latency_map import SCOPES
from sparsevit.search.steps import Session
from sparsevit.search.verify import macs
from sparsevit.sparsity.config import Genes
from sparsevit.swin.checkpoints.writing import write_whole


def run_compare(
    checkpoint: str | Path,
    dataset: str | Path | Mapping[str, Any],
    folder: str | Path,
    *,
    settings: CompareSettings | None = None,
    device: str = "cpu",
    input: Mapping[str, Any] | None = None,
    score: str | None = None,
    time_again: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The comparison as JSON; see `comparison`. Rows, weights and findings stay in the folder: called
    again with the same arguments it goes on where it was stopped; more seeds may be asked for.

    checkpoint: dense task weights. dataset, device, input, score: as of run_search. time_again:
    measures latencies anew.

    Raises ConfigError where the folder is of another comparison, DeviceDisturbed where too much else
    runs on the device to settle budgets, BudgetUnreachable where no sparse config is as fast as any of
    the smaller dense rows, and the errors of loading.
    """
    settings, store = settings or CompareSettings(), Store(folder)
    tell = progress or (lambda stage, done, total: None)
    models = Models(
        checkpoint,
        dataset_spec(dataset),
        device,
        dict(input or {}),
        score,
        store.folder,
        settings.rule,
        settings.measure_seconds,
    )
    full = models.session(_asked_size(input))
    store.check_same("question.json", _question(full, settings))
    plan = settled(models, full, settings, store, tell)
    seeds = []
    for seed in range(settings.seeds):
        one = SeedRun(seed, settings, models, full, plan, store, tell)
        seeds.append({row.name: one.result(row) for row in plan.rows})
    latency = _latencies(models, full, plan, seeds, settings, store, tell, time_again)
    spec = full.model.metric
    document = store.write(
        "comparison.json",
        comparison(plan, seeds, latency, settings, spec["name"], full.splits.report_name),
    )
    write_whole(store.path("comparison.csv"), csv_text(document).encode())
    write_whole(store.path("comparison.png"), tradeoff_png(document))
    return document


def _asked_size(input: Mapping[str, Any] | None) -> tuple[int, int] | None:
    sides = [(input or {}).get(name) for name in ("height", "width")]
    return None if None in sides else (sides[0], sides[1])


def _question(full: Session, settings: CompareSettings) -> dict[str, Any]:
    """What the rows in a folder depend on."""
    return {
        "weights": full.model.weights_sha256,
        "dataset": full.dataset_sha256(),
        "training": full.training_sha256(),
        "input": full.input,
        "score": full.score,
        "settings": settings.question(),
    }


def _latencies(
    models: Models,
    full: Session,
    plan: Plan,
    seeds: Sequence[Mapping[str, Mapping[str, Any]]],
    settings: CompareSettings,
    store: Store,
    tell: Progress,
    again: bool,
) -> dict[str, Any]:
    """What was measured of every place, see `place_key`; an earlier run's where it timed the same."""
    wanted: dict[str, tuple[Row, Genes]] = {}
    for row in plan.rows:
        for one in seeds:
            genes = tuple(one[row.name]["genes"])
            wanted.setdefault(place_key(row, genes), (row, genes))
    found = store.read("latency.json")
    if found is not None and not again and found["places"].keys() == wanted.keys():
        return found
    sessions: dict[tuple[Any, ...], Session] = {}
    for row, _ in wanted.values():
        if (row.size, row.width) not in sessions:
            sessions[row.size, row.width] = models.untrained(row)
    places = [(sessions[row.size, row.width], genes) for row, genes in wanted.values()]
    measured = timed(
        places,
        settings.measure_seconds,
        plan.quiet_ms(),
        lambda done, total: tell("timing all rows", done, total),
    )
    return store.write(
        "latency.json",
        {
            "input": full.input,
            "device": full.device_facts,
            "host": host_facts(),
            "versions": library_versions(),
            "places": {
                key: {
                    **_size_facts(session),
                    "macs": macs(session, genes),
                    "latency_ms": {scope: measured[scope][i].to_dict() for scope in SCOPES},
                }
                for i, (key, (session, genes)) in enumerate(zip(wanted, places, strict=True))
            },
        },
    )


def _size_facts(session: Session) -> dict[str, Any]:
    model = session.model
    size = (session.input["height"], session.input["width"])
    return {
        "channels": list(model.backbone.config.dims),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "padding": padding_ratio(model.backbone.config, size),
    }
