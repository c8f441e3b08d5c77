"""How a search scales over workers: a simulation of 1 to 64, checked against 1 and 2 real ones.

    python -m bench.search_scale           simulation and check (about 3 minutes)
    python -m bench.search_scale --quick   a short check

A generation's units are its shards, rung by rung; the next rung opens when the last unit of this one
is in. A unit is claimed and handed in by statements of one database, and a step of the coordinator
opens the next rung. Simulated is a search of the digits supernet on images drawn from the exhaustive
table, racing included, with the times measured here: seconds of a unit for each MAC and how they
scatter, and those of a claim, a hand-in and a step of a job on a real Postgres.

Efficiency is the work done over workers times duration. The coordinator's share is the time that
steps, claims and hand-ins take of what all workers have.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from typing import Any

import numpy as np

from bench.common import Check, arguments, finish, table
from bench.search_load import database, run_job
from bench.search_replay import Problem, Trace, proposed
from bench.search_truth import load
from sparsevit.search.racing import images_in, rungs
from sparsevit.search.trie_cost import MacTable, count_macs, mac_table
from sparsevit.sparsity.config import Genes

PIXELS = 448
WORKERS = (1, 2, 4, 8, 16, 32, 64)
SIMULATED_IMAGES = (500, 5000)
EVALUATIONS = 200
REAL_WORKERS = (1, 2)
CHECK_IMAGES, CHECK_SHARDS = 64, 4
MOST_OFF = 0.25
LEAST_EFFICIENCY = 0.7
"""On 5,000 images with 16 workers."""


@dataclass(frozen=True)
class Times:
    """per_mac: seconds of a unit for each MAC of its trie. scatter: standard deviation of the logarithm
    of what units take over that. claim, hand_in, step: seconds in the database, one after another."""

    per_mac: float
    scatter: float
    claim: float
    hand_in: float
    step: float


@dataclass(frozen=True)
class Simulated:
    seconds: float
    work: float
    coordination: float


Rungs = list[list[float]]
"""MACs of every unit, rung after rung."""


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    problem = Problem(load())
    macs = mac_table(problem.truth.latency_map.architecture, PIXELS, PIXELS)
    real, times, checks = check(problem, macs, options.quick)
    results: dict[str, Any] = {"real": real, "times": vars(times)}
    rows = []
    for images in SIMULATED_IMAGES:
        drawn = Problem(problem.truth.drawn(images, seed=0), problem.share)
        units = units_of(drawn, macs, proposed(drawn, "evolution", 0, EVALUATIONS, racing=True))
        found = {workers: simulate(units, workers, times) for workers in WORKERS}
        results[str(images)] = {n: vars(one) | shares(one, n) for n, one in found.items()}
        for workers, one in found.items():
            share = shares(one, workers)
            row = [f"{images:,}", drawn.truth.shards, workers, f"{one.seconds / 60:.1f}"]
            rows.append([*row, f"{share['efficiency']:.0%}", f"{share['coordinator']:.2%}"])
    print(f"\nSimulated: {EVALUATIONS} evaluations of the digits supernet, population 16, racing")
    print(table(["images", "shards", "workers", "minutes", "efficiency", "coordinator"], rows))
    efficiency = results["5000"][16]["efficiency"]
    checks.append(Check("efficiency of 16 workers on 5,000 images", efficiency, LEAST_EFFICIENCY))
    finish("search_scale", results, checks, options.check)


def units_of(problem: Problem, macs: MacTable, trace: Trace) -> Rungs:
    """The units of a search that was replayed on the table."""
    truth, found = problem.truth, []
    for rows, images in zip(trace.generations, trace.images, strict=True):
        raced = min(images) < truth.images
        done = 0
        for end in rungs(truth.shards, raced):
            begun = images_in(truth.images, done, truth.shards)
            live = [row for row, n in zip(rows, images, strict=True) if n > begun]
            if not live:  # all were dropped: the generation is over
                break
            each = count_macs(macs, truth.genes[live]).trie * truth.images / truth.shards
            found.append([each] * (end - done))
            done = end
    return found


def simulate(units: Rungs, workers: int, times: Times) -> Simulated:
    """Event by event: whoever is free claims next; the database serves one statement at a time."""
    rng = np.random.default_rng(0)
    now, work, coordination = 0.0, 0.0, 0.0
    for rung in units:
        now += times.step
        coordination += times.step
        waiting = list(reversed(rung))
        database = now
        events = [(now, worker, "claim") for worker in range(workers)]
        while events:
            moment, worker, event = heapq.heappop(events)
            if event == "claim" and not waiting:
                continue
            cost = times.claim if event == "claim" else times.hand_in
            database = max(database, moment) + cost
            coordination += cost
            if event == "claim":
                seconds = times.per_mac * waiting.pop() * rng.lognormal(0.0, times.scatter)
                work += seconds
                heapq.heappush(events, (database + seconds, worker, "hand in"))
            else:
                now = database
                heapq.heappush(events, (database, worker, "claim"))
    return Simulated(now, work, coordination)


def shares(found: Simulated, workers: int) -> dict[str, float]:
    had = workers * found.seconds
    return {"efficiency": found.work / had, "coordinator": found.coordination / had}


def check(
    problem: Problem, macs: MacTable, quick: bool
) -> tuple[dict[str, Any], Times, list[Check]]:
    """Real processes, one thread each, on the units of a real search; no database between them."""
    trace = proposed(problem, "evolution", 0, 16 if quick else 32)
    generations = [
        [tuple(genes) for genes in problem.truth.genes[rows].tolist()] for rows in trace.generations
    ]
    units = [
        [count_macs(macs, genes).trie * CHECK_IMAGES / CHECK_SHARDS] * CHECK_SHARDS
        for genes in generations
    ]
    found, rows, checks = {}, [], []
    for workers in REAL_WORKERS:
        seconds, each = run_real(generations, workers)
        if workers == 1:
            rates = [s / m for s, m in zip(each, chain(*units), strict=True)]
            scatter = float(np.std(np.log(rates)))
            times = Times(float(np.mean(rates)), scatter, 0.0, 0.0, 0.0)
        predicted = simulate(units, workers, times).seconds
        off = seconds / predicted - 1
        found[workers] = {"seconds": seconds, "predicted": predicted, "units": each}
        rows.append([workers, f"{seconds:.1f}", f"{predicted:.1f}", f"{off:+.0%}"])
        if workers > 1:
            title = f"simulation off by, {workers} real workers"
            checks.append(Check(title, abs(off), MOST_OFF, at_most=True))
    print(f"\n{len(generations)} generations in {CHECK_SHARDS} shards, real processes")
    print(table(["workers", "seconds", "simulated", "off by"], rows))
    return found, Times(times.per_mac, times.scatter, *database_times(quick)), checks


def database_times(quick: bool) -> tuple[float, float, float]:
    """Seconds of a claim, a hand-in and a step of a job on a real Postgres (search_load.py)."""
    with database() as (engine, store, _):
        found = run_job(engine, store, 200 if quick else 1000)
    return found["claim"], found["hand_in"], found["step"]


def run_real(generations: Sequence[Sequence[Genes]], workers: int) -> tuple[float, list[float]]:
    """Seconds from the first claim to the last result, and of each unit; sessions are warm."""
    with ProcessPoolExecutor(workers, get_context("spawn"), _open) as pool:
        wait([pool.submit(time.sleep, 5.0) for _ in range(workers)])  # every process has started
        start, each = time.perf_counter(), []
        for genes in generations:
            shards = range(CHECK_SHARDS)
            each += pool.map(_unit, [genes] * CHECK_SHARDS, shards)
        return time.perf_counter() - start, each


_session: Any = None


def _open() -> None:
    global _session
    import torch

    from sparsevit.search.steps import Session

    torch.set_num_threads(1)
    dataset = {"path": "builtin:digits", "limit": CHECK_IMAGES}
    _session = Session("builtin:digits", dataset, input={"threads": 1}, evaluation_threads=1)
    for shard in range(CHECK_SHARDS):  # reads and keeps the images
        _unit([(8,) * sum(_session.pairs)], shard)


def _unit(genes: Sequence[Genes], shard: int) -> float:
    """Seconds of one unit."""
    return _session.evaluate(genes, shard, CHECK_SHARDS)["seconds"]


if __name__ == "__main__":
    main()
