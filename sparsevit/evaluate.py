"""The trie evaluator: many configs over the same images, each common prefix computed once.

A config is a sequence of levels, one per block pair. Candidates that agree on the first pairs share
everything up to there, so a generation is walked depth first as a trie: memory grows with the depth
of the network, never with the number of candidates. Results are bit-identical to running the
candidates one by one at the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsevit.data.base import Dataset
from sparsevit.data.loading import read_ahead
from sparsevit.metrics import State, merge
from sparsevit.sparsity.config import Genes, SparsityConfig
from sparsevit.sparsity.score import WindowScore, get_score
from sparsevit.swin.stage import StageState
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.sliding import check_sliding

EVALUATION_BATCH = 8
Progress = Callable[[int, int], None]  # (images done, images in all)


@torch.inference_mode()
def evaluate(
    model: TaskModel,
    candidates: Sequence[Genes],
    score: str,
    dataset: Dataset,
    indices: Sequence[int],
    batch: int = EVALUATION_BATCH,
    progress: Progress | None = None,
    folds: int | None = None,
) -> list[list[State]]:
    """Metric states [candidate][batch of images] of every candidate on the given images.

    folds: how many states each candidate gets instead (at most one an image), each of as many
    images in a row as the others, or of one more.

    batch: images of a forward; those of one sample at least. Where preprocessing slides a window the
    crops of one image are a batch: those of many would need the memory of a batch many times as large.
    """
    sliding = model.preprocess.slide is not None
    size = 1 if sliding else max(1, batch // model.views)
    fold_of = _folds(len(indices), size, folds)
    weight = next(model.parameters())
    states: list[list[State]] = [[] for _ in candidates]
    done = 0
    for images, targets in read_ahead(dataset, indices, size):
        if sliding:
            check_sliding(images, targets)
        x = model.preprocess(images).to(weight.device, weight.dtype)
        model.attend(x, targets)
        for members, outputs in run_trie(model, candidates, get_score(score), x):
            found = model.states(outputs, targets)
            parts: dict[int, list[State]] = {}
            for fold, state in zip(fold_of[done : done + len(targets)], found, strict=True):
                parts.setdefault(fold, []).append(state)
            for member in members:
                for fold, part in parts.items():
                    begun = states[member][fold : fold + 1]
                    states[member][fold:] = [merge([*begun, *part], model.metric)]
        done += len(targets)
        if progress is not None:
            progress(done, len(indices))
    return states


def _folds(images: int, batch: int, folds: int | None) -> list[int]:
    """The fold of each image."""
    if folds is None:
        return [i // batch for i in range(images)]
    folds = min(folds, images)
    return [((i + 1) * folds - 1) // images for i in range(images)]


def run_trie(
    model: TaskModel, candidates: Sequence[Genes], score: WindowScore, images_BCHW: Tensor
) -> Iterator[tuple[list[int], Any]]:
    """Yields (indices of equal candidates, the model's outputs), candidate by distinct candidate."""
    x = model.backbone.patch_embed(images_BCHW)
    yield from _Walk(model, candidates, score).stage(0, 0, x, list(range(len(candidates))), [])


class _Walk:
    def __init__(self, model: TaskModel, candidates: Sequence[Genes], score: WindowScore) -> None:
        self.model, self.candidates, self.score = model, candidates, score
        self.pairs = model.backbone.config.pairs

    def stage(
        self, stage: int, first: int, x: Tensor, members: list[int], features: list[Tensor]
    ) -> Iterator[tuple[list[int], Any]]:
        """Every member from the input of `stage` on; `first` is the gene of its first pair."""
        genes = [self.candidates[m][first : first + self.pairs[stage]] for m in members]
        score = self.score if any(map(any, genes)) else None
        state = self.model.backbone.layers[stage].enter(x, score)
        yield from self.pair(stage, first, 0, state, score, members, features)

    def pair(
        self,
        stage: int,
        first: int,
        pair: int,
        state: StageState,
        score: WindowScore | None,
        members: list[int],
        features: list[Tensor],
    ) -> Iterator[tuple[list[int], Any]]:
        if pair == self.pairs[stage]:
            yield from self.leave(stage, first, state, members, features)
            return
        groups: dict[int, list[int]] = {}
        for member in members:
            groups.setdefault(self.candidates[member][first + pair], []).append(member)
        for i, (level, group) in enumerate(groups.items()):
            child = state if i == len(groups) - 1 else state.fork()
            self.model.backbone.layers[stage].run_pair(child, pair, level, score)
            yield from self.pair(stage, first, pair + 1, child, score, group, features)

    def leave(
        self,
        stage: int,
        first: int,
        state: StageState,
        members: list[int],
        features: list[Tensor],
    ) -> Iterator[tuple[list[int], Any]]:
        backbone = self.model.backbone
        self.check(stage, first, state, members)
        x = backbone.layers[stage].leave(state)
        features = features + backbone.outputs(stage, x)
        if stage == len(self.pairs) - 1:
            yield members, self.model.head(features)
            return
        x = backbone.layers[stage].downsample(x)
        yield from self.stage(stage + 1, first + self.pairs[stage], x, members, features)

    def check(self, stage: int, first: int, state: StageState, members: list[int]) -> None:
        """A number is only stored for windows that were really skipped."""
        sparsity = SparsityConfig.from_genes(
            self.candidates[members[0]], self.pairs, self.score.name
        )
        rows, cols = state.height, state.width
        expected = self.model.backbone.kept_in_stage(sparsity, stage, rows, cols)
        if tuple(state.kept) != expected:
            raise RuntimeError(f"stage {stage} computed {state.kept} windows, not {expected}.")
