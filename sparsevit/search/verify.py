"""The proof at the end: finalists re-scored on the whole search split and timed as deployed.

The winner is the config with the best metric whose measured latency, by the upper bound of its
interval, is within the budget. Only then is it scored on the report split, which the search never
saw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparsevit import metrics
from sparsevit.data.base import Dataset
from sparsevit.errors import DeviceDisturbed, NoFeasibleConfig
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.receipt import receipt
from sparsevit.search.choices import dense_ms, parse_budget
from sparsevit.search.choices import finalists as finalists_of
from sparsevit.search.deployed import deployed_latency
from sparsevit.search.evolution import Evaluation
from sparsevit.search.latency_map import SCOPES, LatencyMap, Scope
from sparsevit.search.resolutions import draw
from sparsevit.search.result import Scores, best_config, front_points
from sparsevit.sparsity.config import Genes, SparsityConfig

if TYPE_CHECKING:
    from sparsevit.search.steps import Session

Progress = Callable[[int, int], None]
Store = Callable[[str, bytes], str]
PROGRESS_STEPS = 100
MORE_ROUNDS = 2
MEASUREMENTS = 3
"""Of the same configs, at most, while they come out disturbed."""


@dataclass(frozen=True)
class Finalist:
    """A config that was re-scored and timed. latency: by scope. budget_ms: what it had to meet."""

    genes: Genes
    scores: Scores
    latency: Mapping[str, Measurement]
    budget_ms: float

    def violation(self, scope: str) -> float:
        """How far the upper bound of its latency is over the budget, in ms; 0 = within."""
        return max(0.0, self.latency[scope].interval[1] - self.budget_ms)


class Verification:
    """One measure unit: session, map, budget and scope of a job, and what its search found.

    budget: ms, or a share of dense such as "60%". A share is taken of the dense latency measured
    beside the finalists: a device that runs faster or slower than when it was calibrated does so
    for both. dense_ratio: the dense latency that a share is one of, as a multiple of this input's by
    their maps; 1 unless the search has several inputs.
    """

    def __init__(
        self,
        session: Session,
        latency_map: LatencyMap,
        budget: float | str,
        scope: Scope,
        search_facts: Mapping[str, Any],
        dense_ratio: float = 1.0,
    ) -> None:
        self.session, self.latency_map = session, latency_map
        self.budget, self.scope, self.search_facts = budget, scope, search_facts
        self.dense_ratio = dense_ratio
        self.dense_genes = (0,) * sum(session.pairs)

    def run(
        self,
        finalists: Sequence[Genes],
        uniform: Sequence[Genes],
        artefacts: Store,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """{"document", "front", "receipts", "artefacts", "error", "drawing"}, all JSON."""
        report = progress or (lambda done, total: None)
        dense = self.score(self.session.splits.search, [self.dense_genes])[self.dense_genes]
        timed = self.enter([*finalists, *uniform], report)
        for _ in range(MORE_ROUNDS):
            if self.disturbed(timed) or not (overlooked := self.overlooked(timed)):
                break
            timed += self.enter(overlooked, report)
        winner = self.choose(timed)
        baseline = self.choose([c for c in timed if c.genes in set(map(tuple, uniform))])
        nearest = min(timed, key=lambda c: c.violation(self.scope))
        result = self.conclude(winner or nearest, baseline, dense, timed, artefacts)
        report(PROGRESS_STEPS, PROGRESS_STEPS)
        if winner:
            return result
        front = [point | {"winner": False} for point in result["front"]]
        error = self.no_winner(timed, nearest)
        return result | {"front": front, "document": None, "error": error}

    def enter(self, genes: Sequence[Genes], report: Progress) -> list[Finalist]:
        """Re-scores and times configs beside dense; times them again where other work on the device
        disturbed the measurement, a few times."""
        genes = list(dict.fromkeys(map(tuple, genes)))
        scores = self.score(self.session.splits.search, genes)
        report(PROGRESS_STEPS // 3, PROGRESS_STEPS)
        for _ in range(MEASUREMENTS):
            latency = self.time(
                genes,
                lambda done, all_: report((all_ + 2 * done) * 99 // (3 * all_), PROGRESS_STEPS),
            )
            if not any(one.disturbed for one in latency[self.scope]):
                break
        dense = self.dense_ratio * latency[self.scope][0].reference_p50
        budget_ms = parse_budget(self.budget, dense)
        return [
            Finalist(one, scores[one], {scope: latency[scope][i] for scope in SCOPES}, budget_ms)
            for i, one in enumerate(genes)
        ]

    def overlooked(self, timed: Sequence[Finalist]) -> list[Genes]:
        """Candidates better than the winner that should be within the budget after all.

        Finalists are picked by prediction. Where the measurements come out slower than predicted,
        the best of them miss the budget and a poor one wins; what was measured says by how much
        predictions are off here, and so who else may be within.
        """
        winner, known = self.choose(timed), {c.genes for c in timed}
        of_budget = [
            c.latency[self.scope].interval[1] / c.budget_ms / self.predict(c.genes) for c in timed
        ]
        floor = winner.scores.value if winner else -1.0
        better = [
            Evaluation(tuple(row["genes"]), 0, row["metric"], row["latency_ms"])
            for row in self.search_facts["evaluations"]
            if row["metric"] > floor and tuple(row["genes"]) not in known
        ]
        return finalists_of(better, 1 / float(np.median(of_budget)))

    def predict(self, genes: Genes) -> float:
        """The map's latency in the job's scope, in ms."""
        return float(self.latency_map.predict(genes, self.scope))

    def score(self, dataset: Dataset, candidates: Sequence[Genes]) -> dict[Genes, Scores]:
        """Metric and its interval of every candidate on a whole split."""
        metric = self.session.model.metric
        states = self.session.states(dataset, candidates, range(len(dataset)))
        return {
            tuple(genes): Scores(
                metrics.value(metrics.merge(folds, metric), metric), metrics.interval(folds, metric)
            )
            for genes, folds in zip(candidates, states, strict=True)
        }

    def time(self, genes: Sequence[Genes], progress: Progress) -> dict[str, list[Measurement]]:
        """Measurements of every config by scope, over real images, interleaved with dense."""
        return deployed_latency(
            [(self.session, one) for one in genes],
            (self.session, self.dense_genes),
            self.session.measure_seconds,
            {scope: dense_ms(self.latency_map, scope) for scope in SCOPES},
            progress,
        )

    def choose(self, timed: Sequence[Finalist]) -> Finalist | None:
        """The best metric whose latency is within the budget, the faster one of equals. A disturbed
        number proves nothing and cannot win."""
        quiet = [c for c in timed if not c.latency[self.scope].disturbed]
        within = [c for c in quiet if c.violation(self.scope) == 0]
        return max(within, key=lambda c: (c.scores.value, -c.latency[self.scope].p50), default=None)

    def disturbed(self, timed: Sequence[Finalist]) -> bool:
        """Whether no latency can be believed."""
        return all(c.latency[self.scope].disturbed for c in timed)

    def no_winner(self, timed: Sequence[Finalist], nearest: Finalist) -> dict[str, str]:
        """The error of a job without a winner."""
        latency = nearest.latency[self.scope]
        if self.disturbed(timed):
            return {
                "code": DeviceDisturbed.code,
                "message": "Other work ran on the device in every attempt to measure, so none of "
                f"the latencies can be believed: the dense model drifted by {latency.drift:.1%}, "
                f"{latency.set_aside:.0%} of the samples had to be set aside "
                f"(load {latency.load}). Stop what else runs there and start the search again.",
            }
        ratios = SparsityConfig.from_genes(nearest.genes, self.session.pairs).to_dict()["sparsity"]
        return {
            "code": NoFeasibleConfig.code,
            "message": f"None of the finalists ran within {nearest.budget_ms:.3f} ms here; the "
            f"nearest, with the ratios {ratios}, took {latency.p50:.3f} ms (at most "
            f"{latency.interval[1]:.3f} ms). Raise the budget to {latency.interval[1]:.3f} ms, or "
            "search on a quieter device.",
        }

    def conclude(
        self,
        winner: Finalist,
        baseline: Finalist | None,
        dense: Scores,
        timed: Sequence[Finalist],
        artefacts: Store,
    ) -> dict[str, Any]:
        from sparsevit.search.pictures import pareto_drawing

        reported = [self.dense_genes, winner.genes, *([baseline.genes] if baseline else [])]
        report = self.score(self.session.splits.report, list(dict.fromkeys(reported)))
        receipts = {c.genes: self.receipt(c) for c in timed}
        document = best_config(
            self, winner, baseline, dense, report, receipts[winner.genes], self.macs(winner.genes)
        )
        front = front_points(self, timed, receipts, winner)
        drawing = pareto_drawing(self, document, front)
        return {
            "document": document,
            "front": front,
            "receipts": {proof["id"]: proof for proof in receipts.values()},
            "artefacts": self.pictures(drawing, winner, artefacts),
            "error": None,
            "drawing": drawing,
        }

    def receipt(self, finalist: Finalist) -> dict[str, Any]:
        """What is needed to believe a finalist's latency, the windows it really ran included."""
        return receipt(
            self.session.device,
            self.session.input,
            finalist.latency[self.scope],
            self.executed(finalist.genes),
        )

    @torch.inference_mode()
    def executed(self, genes: Genes) -> tuple[tuple[int, ...], ...]:
        """Windows per image each block computes, counted in a real forward."""
        model, sparsity = self.session.model, self.session.sparsity(genes)
        model.set_sparsity(sparsity)
        model(self.session.latency_images(1))
        stated = model.backbone.kept_windows(
            sparsity, self.session.input["height"], self.session.input["width"]
        )
        if model.executed_windows != stated:
            raise RuntimeError(f"{model.executed_windows} windows ran, {stated} were asked for.")
        return model.executed_windows

    def macs(self, genes: Genes) -> int:
        return macs(self.session, genes)

    def pictures(
        self, drawing: Mapping[str, Any], winner: Finalist, artefacts: Store
    ) -> dict[str, str]:
        from sparsevit.search.pictures import latency_picture

        pictures = {
            "pareto.png": draw(drawing),
            "latency.png": latency_picture(self.latency_map),
        }
        stored = {name: artefacts(name, content) for name, content in pictures.items() if content}
        return stored | self.window_map(winner.genes, artefacts)

    def window_map(self, genes: Genes, artefacts: Store) -> dict[str, str]:
        """Which windows of the user's images are kept; the weights have a say in it."""
        from sparsevit.search.pictures import window_picture

        picture = window_picture(self.session, genes)
        return {"windows.png": artefacts("windows.png", picture)} if picture else {}


@torch.inference_mode()
def macs(session: Session, genes: Genes) -> int:
    """Multiply-accumulates of the whole model for one sample."""
    session.model.set_sparsity(session.sparsity(genes))
    # The counter does not see inside the fused attention kernels; it does see the plain one.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        session.model(session.latency_images(1))
    return counter.get_total_flops() // 2
