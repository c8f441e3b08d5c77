"""What a search computes: with and without the trie, with and without racing, beside the released one.

Compute is counted in multiply-accumulates (MACs) of backbones, the same on every machine. Racing needs
results of images: it is played on the exhaustive table, and on larger sets drawn from its images.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from bench.common import Check, table
from bench.search_replay import Problem, Trace, proposed
from bench.search_shapes import SWIN_L, SWIN_T, Shape
from bench.search_truth import open_session
from sparsevit.data.base import shard_indices
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.history import History
from sparsevit.search.moves import Evaluation
from sparsevit.search.stops import next_turn
from sparsevit.search.trie_cost import Macs, MacTable, count_macs

TRIE_TARGETS = {SWIN_T: 1.5, SWIN_L: 1.8}
BUDGET_SHARE = 0.6
LEAST_RACING = 1.2
RACED_IMAGES = (128, 500, 5000)
RACED_SHARE = 0.5  # of the feasible configs: a search that goes on to its end


def trie(quick: bool) -> tuple[dict[str, Any], list[Check]]:
    """Whole searches of the default size on both shapes."""
    results, checks, rows = {}, [], []
    for shape, target in TRIE_TARGETS.items():
        settings = EvolutionSettings(generations=3 if quick else 30, patience=None)
        macs, evaluations = _searched(shape, settings)
        ratio = macs.one_by_one / macs.trie
        results[shape.name] = {"ratio": ratio, "evaluations": evaluations, **vars(macs)}
        name = f"{shape.name}, {shape.config.pairs} block pairs"
        rows.append([name, f"{evaluations:,}", *_tera(macs), f"{ratio:.2f}"])
        checks.append(Check(f"{shape.name}: one by one over trie, backbone MACs", ratio, target))
    print("\nTrie: whole searches, population 100, 25 parents, budget 60%, backbone, one image")
    print(table(["shape", "evaluations", "one by one, T", "trie, T", "ratio"], rows))
    return results, checks


def _tera(macs: Macs) -> list[str]:
    return [f"{count / 1e12:.1f}" for count in (macs.one_by_one, macs.trie)]


def _searched(shape: Shape, settings: EvolutionSettings) -> tuple[Macs, int]:
    """MACs of all generations of an evolution, for one image, and its evaluations."""
    budget_ms = BUDGET_SHARE * shape.latency_map.dense_ms
    history, one_by_one, shared = History(), 0, 0
    for generation in range(settings.generations):
        candidates = next_turn(
            *("evolution", shape.space, shape.latency_map, budget_ms, "model"),
            *(settings, history, generation),
        ).proposals
        if not candidates:
            break
        macs = count_macs(shape.macs, candidates)
        one_by_one, shared = one_by_one + macs.one_by_one, shared + macs.trie
        latency = shape.latency_map.predict(candidates, "model")
        history.extend(
            Evaluation(genes, generation, shape.metric(genes), ms)
            for genes, ms in zip(candidates, latency, strict=True)
        )
    return Macs(one_by_one, shared), len(history)


def raced(problem: Problem, macs: MacTable, seeds: int) -> tuple[dict[str, Any], list[Check]]:
    """Searches of the table with and without racing: what it saves, and whether it loses the best."""
    limit = int(RACED_SHARE * problem.feasible.sum())
    results, rows = {}, []
    for images in RACED_IMAGES:
        truth = problem.truth
        drawn = truth if images == truth.images else truth.drawn(images, seed=0)
        results[images] = found = _raced(replace(problem, truth=drawn), macs, seeds, limit)
        saved = found["saved"]
        row = [f"{np.mean(saved):.2f} ({min(saved):.2f} to {max(saved):.2f})"]
        row += [f"{np.mean(found['dropped']):.0%}", f"{found['same_best']} of {seeds}"]
        rows.append([f"{images:,}{'' if drawn is truth else ', drawn'}", *row])
    print(f"\nRacing, on top of the trie: digits supernet, {limit} evaluations, {seeds} seeds")
    print(table(["images", "saved, MACs", "dropped", "same best config"], rows))
    checks = []
    for images, found in results.items():
        saved = float(np.mean(found["saved"]))
        checks.append(Check(f"racing at {images:,} images, MACs saved", saved, LEAST_RACING))
        name = f"racing at {images:,} images, seeds with the same best config"
        checks.append(Check(name, found["same_best"], seeds))
    return {str(images): found for images, found in results.items()}, checks


def _raced(problem: Problem, macs: MacTable, seeds: int, limit: int) -> dict[str, Any]:
    saved, dropped, same = [], [], 0
    for seed in range(seeds):
        whole, short = (
            proposed(problem, "evolution", seed, limit, racing=racing) for racing in (False, True)
        )
        saved.append(evaluation_macs(problem, macs, whole) / evaluation_macs(problem, macs, short))
        ended = [n == problem.truth.images for images in short.images for n in images]
        dropped.append(1 - sum(ended) / len(ended))
        same += _best(problem, whole) == _best(problem, short)
    return {"saved": saved, "dropped": dropped, "same_best": same}


def _best(problem: Problem, trace: Trace) -> int:
    """The row with the best metric of those evaluated to the end."""
    images = [n for generation in trace.images for n in generation]
    ended = [r for r, n in zip(trace.rows, images, strict=True) if n == problem.truth.images]
    return max(ended, key=lambda row: (problem.truth.metric[row], -row))


def evaluation_macs(problem: Problem, macs: MacTable, trace: Trace, upto: int | None = None) -> int:
    """MACs of the first `upto` generations (None: all), each evaluated as a trie, rung by rung."""
    total = 0
    generations = list(zip(trace.generations, trace.images, strict=True))
    for rows, images in generations[:upto]:
        begun = 0
        for end in sorted(set(images)):
            live = [row for row, n in zip(rows, images, strict=True) if n >= end]
            total += (end - begun) * count_macs(macs, problem.truth.genes[live]).trie
            begun = end
    return total


def wall_clock(problem: Problem, macs: MacTable, evaluations: int) -> dict[str, Any]:
    """The trie beside one by one on the digits supernet: seconds, on one batch of images.

    The candidates are those of a search, generation by generation; thread time, in turns.
    """
    session, truth = open_session(), problem.truth
    trace = proposed(problem, "evolution", 0, evaluations)
    images = shard_indices(truth.images, 0, truth.shards)[:8]
    seconds, counted = {"trie": 0.0, "one by one": 0.0}, Macs(0, 0)
    session.states(session.splits.search, [(0,) * truth.space.gene_count], images)  # warm-up
    for rows in trace.generations:
        genes = [tuple(row) for row in truth.genes[rows].tolist()]
        found = count_macs(macs, genes)
        counted = Macs(counted.one_by_one + found.one_by_one, counted.trie + found.trie)
        for name, groups in (("trie", [genes]), ("one by one", [[one] for one in genes])):
            start = time.thread_time()
            for group in groups:
                session.states(session.splits.search, group, images)
            seconds[name] += time.thread_time() - start
    ratio = seconds["one by one"] / seconds["trie"]
    print(
        f"\nTrie on the digits supernet, {len(trace.rows)} evaluations on 8 images: one by one "
        f"{seconds['one by one']:.1f} s, trie {seconds['trie']:.1f} s of thread time, {ratio:.2f}x "
        f"(backbone MACs: {counted.one_by_one / counted.trie:.2f}x)"
    )
    return {"seconds": seconds, "ratio": ratio, "macs": vars(counted)}
