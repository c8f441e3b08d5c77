"""What a job's latencies answer before any search: plain arithmetic on figures that stand.

`latency` here is what a worker stored with a job (or with a map): its map's figures for one space,

    {"key", "device", "input", "score", "receipt", "disturbed", "accuracy", "padding", "aligned",
     "scopes": {"model": {"dense_ms", "min_ms", "max_ms", "nearest_ms", "configs", "feasible"},
                "backbone": ...}}

where `feasible` has rows of [ms, share of the configs predicted within it], ascending, from min_ms
to max_ms.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

from service.domain.errors import BudgetUnreachable
from service.domain.records import Job, Json, Worker

COPIED = ("key", "device", "accuracy", "padding", "aligned", "disturbed")
FREE = frozenset(
    {"latency_budget_ms", "latency_budget", "latency_scope", "search", "device", "metadata"}
    | {"adapt", "finetune"}
)
"""Fields of a request its latencies do not depend on; of `search` the levels count. The device is
left out because it may be settled later."""

VERSIONS = ("torch", "sparsevit", "driver")


def fingerprint(request: Json, checkpoint_file: Json | None, dataset_file: Json | None) -> str:
    """A digest of what latencies depend on, as asked for: one for all budgets."""
    subject = {
        "request": {name: value for name, value in request.items() if name not in FREE},
        "levels": request["search"]["levels"],
        "files": [checkpoint_file, dataset_file],
    }
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()


def feasible_share(feasible: Sequence[Sequence[float]], ms: float) -> float:
    """The share of the configs predicted within `ms`: linear between rows, 0 below the first."""
    after = bisect_right(feasible, ms, key=itemgetter(0))
    if after in (0, len(feasible)):
        return feasible[-1][1] if after else 0.0
    (low_ms, low), (high_ms, high) = feasible[after - 1 : after + 1]
    return low + (high - low) * (ms - low_ms) / (high_ms - low_ms)


def budget_ms(request: Json, dense_ms: float) -> float:
    """A request's budget; a share is one of the dense latency."""
    if request["latency_budget_ms"] is not None:
        return float(request["latency_budget_ms"])
    return dense_ms * float(request["latency_budget"].removesuffix("%")) / 100


def figures_of(job: Job) -> list[Json]:
    """What stands for each input of a job that knows its latencies."""
    if job.resolutions is not None:
        return [one["latency"] for one in job.resolutions]
    assert job.latency is not None, "a job that knows its latencies"
    return [job.latency]


def answer(latency: Json, request: Json, first: Json | None = None) -> Json:
    """What the figures say to a request's budget, in its scope. first: those of its first input, of
    whose dense latency a share is one; None: these."""
    scope = request["latency_scope"]
    figures = latency["scopes"][scope]
    budget = budget_ms(request, (first or latency)["scopes"][scope]["dense_ms"])
    return {
        "scope": scope,
        **{name: figures[name] for name in ("dense_ms", "min_ms", "max_ms", "nearest_ms")},
        "budget_ms": budget,
        "feasible_share": feasible_share(figures["feasible"], budget),
        "reachable": figures["min_ms"] <= budget,
        **{name: latency[name] for name in COPIED},
    }


def check_reachable(latencies: Sequence[Json], request: Json) -> None:
    """Raises BudgetUnreachable, naming the nearest possible budget, where no config is fast enough.
    latencies: of each input.

    Figures of a disturbed device refuse nothing: the search measures for itself.
    """
    answers = [answer(one, request, latencies[0]) for one in latencies]
    if any(one["reachable"] or one["disturbed"] for one in answers):
        return
    found = min(answers, key=itemgetter("nearest_ms"))
    dense, nearest = found["dense_ms"], found["nearest_ms"]
    field = "latency_budget" if request["latency_budget_ms"] is None else "latency_budget_ms"
    raise BudgetUnreachable.at(
        f"/{field}",
        f"no config is predicted to run within this budget: the fastest takes "
        f"{found['min_ms']:.3f} ms, the dense model {dense:.3f} ms. The nearest possible budget "
        f"is {nearest:.3f} ms ({100 * nearest / dense:.1f}% of dense)",
    )


def is_stale(facts: Json, workers: Sequence[Worker]) -> bool:
    """Whether a map was made with other versions than its device's workers have now.

    facts: of the map. workers: those of its device; while none is online the last seen one counts.
    """
    made_with = {**facts["versions"], "driver": facts["device"]["driver"]}
    online = [worker for worker in workers if worker.online]
    last = sorted(workers, key=lambda worker: worker.seen_at)[-1:]
    return not any(_same_versions(made_with, worker.versions) for worker in online or last)


def _same_versions(one: Json, other: Json) -> bool:
    return all(one.get(name) == other.get(name) for name in VERSIONS)
