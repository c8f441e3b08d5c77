"""Exhaustive ground truth: every config of the digits supernet on 5 levels, under one latency map.

    python -m bench.search --truth     made once, about 25 minutes on one core; resumes where it was cut

All 875 configs are evaluated on the 128 images of the search split, as one trie per batch of 8, in
the order of a job's shards. The metric's counts stay per image, so that a search can be replayed on
them with or without racing. The latency map is frozen beside them: what a search finds on this table
is a matter of the search alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import machine
from sparsevit import metrics
from sparsevit.data.base import shard_indices
from sparsevit.evaluate import EVALUATION_BATCH
from sparsevit.latency import meter
from sparsevit.metrics.mean_iou import HITS, LABELS, PREDICTIONS
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.racing import folds_of_shard
from sparsevit.search.space import SearchSpace
from sparsevit.search.steps import MAX_SHARDS, SHARD_IMAGES, Session
from sparsevit.sparsity.config import Genes

LEVELS = (0, 2, 4, 6, 8)
IMAGES = 128
FOLDER = Path(__file__).parent / "data"
TABLE, FACTS = FOLDER / "search_truth.npz", FOLDER / "search_truth.json"
PARTS = Path("runs/search-truth")


@dataclass(frozen=True)
class Truth:
    """What every config of the space scores, and the frozen map.

    genes: uint8 [n, pairs], in the order of `space.enumerate()`. states: int32 [n, folds, 3, classes],
    the counts of mean IoU on each fold, shard after shard; of the classes that count. In the
    repository a fold is an image. seconds: of the calibration.
    """

    space: SearchSpace
    latency_map: LatencyMap
    spec: dict[str, Any]
    genes: np.ndarray
    states: np.ndarray
    images: int
    shards: int
    seconds: float

    @cached_property
    def metric(self) -> np.ndarray:
        """Metric of each config on all images: float64 [n], in [0, 1]."""
        return np.array([metrics.value(state, self.spec) for state in self.states.sum(axis=1)])

    @cached_property
    def rows(self) -> dict[tuple[int, ...], int]:
        """Row of each config, by its key."""
        return {self.space.key(genes): row for row, genes in enumerate(self.genes)}

    def row(self, genes: Genes) -> int:
        return self.rows[self.space.key(np.asarray(genes, np.uint8))]

    def on_shard(self, rows: Sequence[int], shard: int) -> list[list[np.ndarray]]:
        """Folds of each of these rows on one shard."""
        each = self.states.shape[1] // self.shards
        return [list(self.states[row, shard * each : (shard + 1) * each]) for row in rows]

    def drawn(self, images: int, seed: int) -> Truth:
        """A table of so many images, each drawn from this one's with replacement."""
        shards = min(MAX_SHARDS, -(-images // SHARD_IMAGES))
        order = np.random.default_rng(seed).integers(self.images, size=images)
        folds = [
            fold
            for shard in range(shards)
            for fold in np.array_split(
                order[images * shard // shards : images * (shard + 1) // shards],
                min(folds_of_shard(shards), images // shards),
            )
        ]
        states = np.stack([self.states[:, fold].sum(axis=1) for fold in folds], axis=1)
        return replace(self, states=states, images=images, shards=shards)


def load() -> Truth:
    """The table in the repository."""
    facts = json.loads(FACTS.read_text())
    table = np.load(TABLE)
    hits, labels = table["hits"], table["labels"]
    states = np.empty((*hits.shape[:2], 3, hits.shape[2]), np.int32)
    states[:, :, HITS], states[:, :, LABELS] = hits, labels
    states[:, :, PREDICTIONS] = table["predictions"]
    space = SearchSpace(*(tuple(facts["space"][name]) for name in ("pairs", "windows", "levels")))
    latency_map = LatencyMap.from_dict(facts["latency_map"])
    return Truth(
        space=space,
        latency_map=latency_map,
        spec=facts["metric"],
        genes=space.enumerate(),
        states=states,
        images=facts["images"],
        shards=facts["shards"],
        seconds=facts["calibration_seconds"],
    )


def make() -> None:
    """Evaluates what is missing, batch by batch, calibrates, and writes both files."""
    session = open_session()
    space = SearchSpace(session.pairs, session.windows, LEVELS)
    genes = space.enumerate()
    parts = [_part(session, genes, number) for number in range(IMAGES // EVALUATION_BATCH)]
    counted = session.model.metric["classes"]
    states = np.concatenate(parts, axis=1)[..., counted].astype(np.uint16)  # a map has 112 x 112
    labels = states[0, :, LABELS]
    assert (states[:, :, LABELS] == labels).all(), "labels do not depend on the config"
    # CPU time of the one thread that computes: on a busy machine a map by the wall clock would be
    # one of its load.
    meter.measure_many.__kwdefaults__["clock"] = time.thread_time_ns
    start = time.thread_time()
    document = session.calibrate()["map"]
    facts = {
        "machine": machine(),
        "space": {"pairs": space.pairs, "windows": space.windows, "levels": space.levels},
        "metric": {**session.model.metric, "classes": [*range(len(counted))]},
        "images": IMAGES,
        "shards": session.shards,
        "checkpoint_sha256": session.model.weights_sha256,
        "calibration_seconds": time.thread_time() - start,
        "latency_map": document,
    }
    FOLDER.mkdir(exist_ok=True)
    found = {"hits": states[:, :, HITS], "predictions": states[:, :, PREDICTIONS]}
    np.savez_compressed(TABLE, labels=labels, **found)
    FACTS.write_text(json.dumps(facts, indent=1) + "\n")
    size = sum(path.stat().st_size for path in (TABLE, FACTS))
    print(f"{len(genes)} configs on {IMAGES} images: {size / 1e3:.0f} kB in {FOLDER}")


def open_session() -> Session:
    """The shipped supernet and its search split, on one thread."""
    dataset = {"path": "builtin:digits", "limit": IMAGES}
    return Session("builtin:digits", dataset, input={"threads": 1}, evaluation_threads=1)


def evaluate_batch(
    session: Session, genes: Sequence[Genes] | np.ndarray, number: int
) -> np.ndarray:
    """Counts of each config on the images of one batch: int32 [n, 8, 3, classes]."""
    order = [i for s in range(session.shards) for i in shard_indices(IMAGES, s, session.shards)]
    images = order[number * EVALUATION_BATCH :][:EVALUATION_BATCH]
    candidates = [tuple(int(level) for level in row) for row in genes]
    found = session.states(session.splits.search, candidates, images, folds=len(images))
    return np.array(found, np.int32)


def _part(session: Session, genes: np.ndarray, number: int) -> np.ndarray:
    path = PARTS / f"batch-{number:02}.npy"
    if not path.exists():
        PARTS.mkdir(parents=True, exist_ok=True)
        found = evaluate_batch(session, genes, number)
        unfinished = path.with_suffix(".part.npy")
        np.save(unfinished, found)
        unfinished.rename(path)
        print(f"batch {number + 1} of {IMAGES // EVALUATION_BATCH}", flush=True)
    return np.load(path)
