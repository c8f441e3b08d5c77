"""Racing: a candidate that is surely beaten is not evaluated to the end.

    rungs     1/8, 1/4, 1/2 and all of the shards; decisions fall at the end of a rung
    rival     of a candidate: the best config so far that is predicted no slower
    dropped   is who falls behind its rival by more than chance explains on the images so far

Beaten by a config that is no slower, a dropped candidate is neither the winner nor on the Pareto
front. Candidates without a rival, and so all of generation 0, are evaluated to the end.

The images so far are a random sample of a finite set (see `shard_indices`), and both configs were
scored on the same ones. The spread of their difference is taken by the delete-one jackknife over
folds of the images (Efron and Stein, 1981): where the metric is a mean it is the spread of the
paired differences, and it holds for mean IoU too, which is none. Near the end little is left to
chance: the variance shrinks by the share of images still to come (finite population correction,
Cochran, Sampling Techniques, section 2.6).

Everything here is a pure function of results, never of their timing or order; racing saves work and
the same search comes out whoever computes it. docs/decisions/0014-racing.md says how the constants
were chosen. Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sparsevit import metrics
from sparsevit.metrics import Spec, State
from sparsevit.search.history import History
from sparsevit.search.moves import Dropped, Evaluation
from sparsevit.search.pareto import pareto_front

if TYPE_CHECKING:
    from sparsevit.search.evolution import EvolutionSettings

RUNG_SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)

FIRST_FOLDS = 32
"""Folds of the first rung, where it has as many images."""

MIN_FOLDS = 8
"""Of fewer folds the spread is not known well enough to drop anybody."""

CONFIDENCE = 0.999
"""Of one comparison, one-sided."""

UNRACED = ("exhaustive", "released")
"""Strategies that evaluate everything to the end: one is to know every metric, one is as published."""

Z_95 = 1.96

Folds = Sequence[State]
"""Metric states of one candidate, one a fold, in the order of the shards."""

Key = TypeVar("Key", bound=Hashable)
Rival = TypeVar("Rival", bound=Hashable)


def races(strategy: str, settings: EvolutionSettings) -> bool:
    """Whether a search races at all."""
    return settings.racing and strategy not in UNRACED


def rungs(shards: int, racing: bool) -> list[int]:
    """How many shards are done at the end of each rung, rising; one rung of all without racing."""
    if not racing:
        return [shards]
    return sorted({math.ceil(share * shards) for share in RUNG_SHARES})


def folds_of_shard(shards: int) -> int:
    """Folds that the images of one shard are divided into (at most one an image).

    Enough for a spread at the end of the first rung, and no more: what is stored of a candidate
    stays below 512 states, however many images there are.
    """
    return math.ceil(FIRST_FOLDS / rungs(shards, racing=True)[0])


def images_in(images: int, done: int, shards: int) -> int:
    """Images in the first `done` of so many shards; see `shard_indices`."""
    return images * done // shards


def rivals(
    strategy: str,
    settings: EvolutionSettings,
    history: Sequence[Evaluation],
    latencies: Sequence[float],
) -> list[Evaluation | None]:
    """Of each candidate, by its predicted latency: the best of the configs scored so far that are no
    slower; None where there is none, or nothing races."""
    if not races(strategy, settings):
        return [None for _ in latencies]
    front = possible_rivals(history)  # by falling metric
    return [next((e for e in front if e.latency_ms <= ms), None) for ms in latencies]


def possible_rivals(history: Sequence[Evaluation]) -> list[Evaluation]:
    """Whose folds are worth keeping: those on the Pareto front of all scored evaluations, the best
    metric first, whatever order they came in.

    The best config no slower than anything is on that front, and who is not on it now never will be.
    """
    history = History.of(history)
    if history.columns is None:
        return []
    rows = np.flatnonzero(np.isfinite(history.columns.metric))
    scored = history.columns.where(rows)
    front = rows[pareto_front(np.column_stack((-scored.metric, scored.latency_ms)))]
    return sorted((history[i] for i in front), key=lambda e: (-e.metric, e.latency_ms, e.genes))


def drops(
    live: Mapping[Key, Folds],
    rival_of: Mapping[Key, Rival],
    rival_folds: Mapping[Rival, Folds],
    spec: Spec,
    done: int,
    images: int,
) -> dict[Key, Dropped]:
    """Who is dropped at the end of a rung.

    live: the folds so far of each candidate. rival_of: of each that has one. rival_folds: of each
    rival, as many in the same order, and any number more. done, images: so far, and in all.
    """
    count = len(next(iter(live.values()), ()))
    if count < MIN_FOLDS:
        return {}
    racing = {key: rival_of[key] for key in live if key in rival_of}
    best = {rival: _Estimate(rival_folds[rival][:count], spec) for rival in set(racing.values())}
    found = {}
    for key, rival in racing.items():
        mine = _Estimate(live[key], spec)
        if _is_beaten(mine, best[rival], done / images):
            found[key] = mine.as_dropped(done, images)
    return found


@dataclass(frozen=True)
class Race:
    """A generation that was evaluated rung by rung.

    folds: of each candidate, as far as it came. metrics: NaN where it was dropped. dropped: what was
    known then, by index. images: how many each was evaluated on.
    """

    folds: list[list[State]]
    metrics: list[float]
    dropped: dict[int, Dropped]
    images: list[int]


def race(
    candidates: int,
    rival_of: Mapping[int, Rival],
    rival_folds: Mapping[Rival, Folds],
    evaluate: Callable[[list[int], int], Sequence[Folds]],
    spec: Spec,
    images: int,
    shards: int,
) -> Race:
    """Evaluates one generation, dropping who is beaten at each rung's end.

    candidates: how many. rival_of: by index, of each that has one; {} where nothing races.
    evaluate: folds of the given candidates, by index, on one shard.
    """
    folds: list[list[State]] = [[] for _ in range(candidates)]
    dropped: dict[int, Dropped] = {}
    live, done = list(range(candidates)), 0
    for end in rungs(shards, racing=bool(rival_of)):
        for shard in range(done, end) if live else ():
            for i, states in zip(live, evaluate(live, shard), strict=True):
                folds[i] += states
        done = end
        if end < shards:
            so_far = images_in(images, done, shards)
            dropped |= drops(
                {i: folds[i] for i in live}, rival_of, rival_folds, spec, so_far, images
            )
            live = [i for i in live if i not in dropped]
    scores = [metrics.value(metrics.merge(folds[i], spec), spec) for i in range(candidates)]
    return Race(
        folds,
        [math.nan if i in dropped else score for i, score in enumerate(scores)],
        dropped,
        [dropped[i].images if i in dropped else images for i in range(candidates)],
    )


class _Estimate:
    """A metric on some folds, and without each of them."""

    def __init__(self, folds: Folds, spec: Spec) -> None:
        self.value = metrics.value(metrics.merge(folds, spec), spec)
        self.left_out = metrics.left_out(folds, spec)

    def as_dropped(self, done: int, images: int) -> Dropped:
        error = Z_95 * _standard_error(self.left_out, done / images)
        interval = (max(0.0, self.value - error), min(1.0, self.value + error))
        return Dropped(self.value, interval, done)


def _is_beaten(mine: _Estimate, rival: _Estimate, share: float) -> bool:
    """Whether the rival is better on all images, by what a share of them shows."""
    gap = rival.value - mine.value
    error = _standard_error(rival.left_out - mine.left_out, share)
    return gap > 0 and gap > t_quantile(CONFIDENCE, len(mine.left_out) - 1) * error


def _standard_error(left_out: np.ndarray, share: float) -> float:
    """By the delete-one jackknife, of an estimate on a share of a finite set of images."""
    folds = len(left_out)
    variance = (folds - 1) / folds * np.sum((left_out - left_out.mean()) ** 2)
    return float(np.sqrt(variance * (1 - share)))


def t_quantile(confidence: float, freedom: int) -> float:
    """Quantile of Student's t by the expansion round the normal one, to the fourth order (Abramowitz
    and Stegun 26.7.5): within 0.1% from 7 degrees of freedom on."""
    z = NormalDist().inv_cdf(confidence)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))
