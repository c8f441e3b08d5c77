"""Calibration: times the parts of a model on this device, which gives its latency map.

Each block pair is timed alone at every distinct kept count, on features of real images; the rest
(embedding, merging, norms, head) is the forward with no block run. All timings are interleaved with
the dense model, so that a device that slows down meanwhile shifts them alike. Whole models then tell
how far the sum is off, and correct it where that helps (accuracy.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsevit.latency.accuracy import verified
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.meter import measure_many
from sparsevit.latency.modes import as_mode
from sparsevit.latency.sampling import FEWEST_ROUNDS
from sparsevit.search.latency_map import LatencyMap, map_key
from sparsevit.search.space import SearchSpace
from sparsevit.sparsity.config import Genes, SparsityConfig, kept_windows
from sparsevit.sparsity.score import Moment, WindowScore, get_score
from sparsevit.swin.stage import StageState, SwinStage
from sparsevit.tasks.base import TaskModel

Progress = Callable[[int, int], None]
Run = Callable[[], Any]

WHOLE_RUNS = 20
"""Whole models that a map is checked against."""
BACKBONE_RUNS = 4
WHOLE_SAMPLES = 12
WHOLE_ROUNDS = 5
"""Made whatever the time. Fewer than an interval needs: 20 configs tell of one slope and offset."""
DRAWN = 500


@dataclass(frozen=True)
class Part:
    """One timed piece. kind: fixed_model, fixed_backbone, enter, scored_enter or pair."""

    kind: str
    run: Run
    stage: int = -1
    pair: int = -1
    level: int = -1


@torch.inference_mode()
def calibrate(
    model: TaskModel,
    images_BCHW: Tensor,
    score: str,
    levels: Sequence[int],
    *,
    threads: int | None,
    mode: str,
    facts: dict[str, Any],
    max_seconds: float,
    progress: Progress | None = None,
) -> tuple[LatencyMap, Measurement]:
    """The latency map of `model` on `images_BCHW` [batch, 3, H, W], and the measurement of the dense
    model among the whole runs that verify it.

    mode: see sparsevit.latency.modes; a compiled model must have been made one already.
    facts: everything the map depends on (sparsevit.search.latency_map.map_facts); they give its key.
    max_seconds: for the parts, and again for the whole runs. progress(done, total) in percent. The
    map's receipt is left to the caller, who knows the device.
    """
    tell = progress or (lambda done, total: None)
    model.set_sparsity(SparsityConfig.dense(model.backbone.config.pairs, score))
    parts = _parts(model, images_BCHW, get_score(score), levels)
    timings = measure_many(
        [as_mode(part.run, mode) for part in parts],
        as_mode(lambda: model(images_BCHW), mode),
        device=images_BCHW.device,
        threads=threads,
        max_seconds=max_seconds,
        progress=lambda done, total: tell(50 * done // total, 100),
    )
    ms = {id(part): timing.corrected_ms for part, timing in zip(parts, timings, strict=True)}
    found = {part.kind: ms[id(part)] for part in parts if part.kind.startswith("fixed")}
    raw = LatencyMap(
        key=map_key(facts),
        levels=tuple(levels),
        fixed_ms=found["fixed_model"],
        backbone_fixed_ms=found["fixed_backbone"],
        pair_ms=_pair_table(model, parts, ms, levels),
        dense_ms=timings[0].reference_p50,
        receipt={},
        facts=facts,
    )
    whole = WholeRuns(model, images_BCHW, score, threads, mode)
    configs = spread_configs(_space(model, images_BCHW, levels), raw)
    runs = [(model, genes) for genes in configs]
    runs += [(model.backbone, genes) for genes in configs[:BACKBONE_RUNS]]
    found_whole = whole.measure(
        runs,
        max_seconds,
        lambda done, total: tell(50 + 50 * done // total, 100),
        quiet_ms=timings[0].reference_p50,
        fewest=WHOLE_ROUNDS,
    )
    in_ms = [timing.corrected_ms for timing in found_whole]
    dense, count = found_whole[0], len(configs)
    noise = float(np.median([timing.noise_floor for timing in found_whole]))
    # Dense among whole runs, as it is deployed: among single parts it finds colder caches.
    # Whether the map can be believed is theirs to say as well: where the parts were disturbed, whole
    # models show how far off the sum is for it.
    raw = replace(raw, dense_ms=dense.corrected_ms)
    latency_map = verified(raw, configs, in_ms[:count], in_ms[count:], noise)
    model.set_sparsity(SparsityConfig.dense(model.backbone.config.pairs, score))
    model(images_BCHW)  # leaves the dense model's executed windows behind, for the receipt
    return latency_map, dense


def spread_configs(space: SearchSpace, latency_map: LatencyMap) -> list[Genes]:
    """20 configs spread evenly over the predicted latencies: the uniform ones, dense first, and of
    many random ones those that lie between."""
    uniform = space.uniform()
    random = space.sample(np.random.default_rng(0), DRAWN)
    random = random[np.argsort(latency_map.predict(random), kind="stable")]
    ms = latency_map.predict(random)
    wanted = np.linspace(ms[0], ms[-1], WHOLE_RUNS - len(uniform))
    chosen = random[np.searchsorted(ms, wanted)]
    return [tuple(int(level) for level in row) for row in np.concatenate([uniform, chosen])]


def _space(model: TaskModel, images_BCHW: Tensor, levels: Sequence[int]) -> SearchSpace:
    config = model.backbone.config
    windows = config.stage_windows(*images_BCHW.shape[-2:])
    return SearchSpace(config.pairs, windows, tuple(levels))


@dataclass(frozen=True)
class WholeRuns:
    """Whole forwards of a model on images [batch, 3, H, W], each with a config, beside dense."""

    model: TaskModel
    images: Tensor
    score: str
    threads: int | None
    mode: str

    @torch.inference_mode()
    def measure(
        self,
        runs: Sequence[tuple[Callable[[Tensor], Any], Genes]],
        max_seconds: float,
        progress: Progress | None = None,
        quiet_ms: float | None = None,
        fewest: int = FEWEST_ROUNDS,
    ) -> list[Measurement]:
        """runs: the model or its backbone, and a config. quiet_ms: of the dense model. See
        `measure_many` for the rest."""
        pairs = self.model.backbone.config.pairs
        return measure_many(
            [self._run(forward, genes) for forward, genes in runs],
            self._run(self.model, (0,) * sum(pairs)),
            device=self.images.device,
            threads=self.threads,
            max_seconds=max_seconds,
            min_samples=WHOLE_SAMPLES,
            progress=progress,
            quiet_ms=quiet_ms,
            fewest=fewest,
        )

    def _run(self, forward: Callable[[Tensor], Any], genes: Genes) -> Run:
        sparsity = SparsityConfig.from_genes(genes, self.model.backbone.config.pairs, self.score)

        def run() -> Any:
            self.model.set_sparsity(sparsity)
            return forward(self.images)

        return as_mode(run, self.mode)


def _parts(
    model: TaskModel, images: Tensor, score: WindowScore, levels: Sequence[int]
) -> list[Part]:
    backbone = model.backbone
    parts = [
        Part("fixed_model", lambda: model.head(_without_blocks(model, images))),
        Part("fixed_backbone", lambda: _without_blocks(model, images)),
    ]
    x = backbone.patch_embed(images)
    for index, stage in enumerate(backbone.layers):
        parts += _stage_parts(model, index, x, score, levels)
        dense, _ = backbone.run_stage(stage, x.clone(), (0,) * backbone.config.pairs[index])
        x = stage.downsample(dense) if stage.downsample is not None else dense
    return parts


def _stage_parts(
    model: TaskModel, index: int, x: Tensor, score: WindowScore, levels: Sequence[int]
) -> list[Part]:
    stage = model.backbone.layers[index]
    # One state serves every timing of the stage: what the tokens hold does not change the time.
    state = stage.enter(x.clone(), score)
    parts = [
        Part("enter", lambda: stage.enter(x, None), index),
        Part("scored_enter", lambda: _scored(stage, stage.enter(x, score), score), index),
    ]
    windows = state.partitions[0].windows
    for pair in range(model.backbone.config.pairs[index]):
        seen = set()
        for level in levels:
            if (kept := kept_windows(windows, level)) in seen:
                continue
            seen.add(kept)
            # `late` scores inside the first pair where anything is dropped.
            scored = score if level or score.moment is not Moment.FIRST_BLOCK else None
            parts.append(
                Part(
                    "pair",
                    lambda p=pair, k=level, s=scored: stage.run_pair(state, p, k, s),
                    index,
                    pair,
                    level,
                )
            )
    return parts


def _scored(stage: SwinStage, state: StageState, score: WindowScore) -> None:
    """`released` scores before the first pair that drops anything: once a stage, as on entry."""
    if score.moment is Moment.FIRST_SPARSE_PAIR:
        stage.rank(state, score)


def _without_blocks(model: TaskModel, images: Tensor) -> list[Tensor]:
    """The backbone's forward with every block left out: what no ratio can change."""
    backbone, features = model.backbone, []
    x = backbone.patch_embed(images)
    for index, stage in enumerate(backbone.layers):
        x = stage.leave(stage.enter(x, None))
        features += backbone.outputs(index, x)
        if stage.downsample is not None:
            x = stage.downsample(x)
    return features


def _pair_table(
    model: TaskModel, parts: Sequence[Part], ms: dict[int, float], levels: Sequence[int]
) -> tuple[tuple[float, ...], ...]:
    """ms [pair][level]. A stage is scored once if its last pair drops anything: levels never fall
    within a stage, so the last pair's level says so, and carries the cost."""
    rows = []
    for index, count in enumerate(model.backbone.config.pairs):
        mine = [p for p in parts if p.stage == index]
        times = {(p.pair, p.level): ms[id(p)] for p in mine if p.kind == "pair"}
        enter, scored = (
            next(ms[id(p)] for p in mine if p.kind == kind) for kind in ("enter", "scored_enter")
        )
        for pair in range(count):
            row, last = [], 0.0
            for level in levels:
                last = times.get((pair, level), last)  # a level that keeps no fewer windows
                is_scored = level > 0 and pair == count - 1
                row.append(last + (max(0.0, scored - enter) if is_scored else 0.0))
            rows.append(tuple(row))
    return tuple(rows)
