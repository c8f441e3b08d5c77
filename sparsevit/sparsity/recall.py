"""Foreground recall: does a score keep the windows that matter?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsevit.data.base import Dataset, batches
from sparsevit.sparsity.config import kept_windows
from sparsevit.sparsity.score import Moment, get_score
from sparsevit.swin.stage import StageState
from sparsevit.tasks.semantic import SegmentationModel


@torch.inference_mode()
def foreground_recall(
    model: SegmentationModel,
    score: str,
    dataset: Dataset,
    indices: Sequence[int],
    level: int = 5,
    batch: int = 8,
) -> list[float]:
    """Per stage: of the windows that hold foreground, the share that `score` keeps at `level`.

    Foreground is every class but the model's background; windows are those of the regular
    partition. Random windows recall 1 - level / 10. `released` is taken as if the first pair dropped
    windows.
    """
    stages = len(model.backbone.layers)
    kept, there = np.zeros(stages), np.zeros(stages)
    for images, labels in batches(dataset, indices, batch):
        x = model.backbone.patch_embed(model.preprocess(images))
        foreground = torch.from_numpy(np.stack(labels) != model.background).float()
        for index, stage in enumerate(model.backbone.layers):
            state = stage.enter(x, get_score(score))
            if get_score(score).moment is Moment.FIRST_SPARSE_PAIR:
                stage.rank(state, get_score(score))
            for pair in range(model.backbone.config.pairs[index]):
                stage.run_pair(state, pair, 0, get_score(score))
            hits, total = _count(state, foreground, level)
            kept[index] += hits
            there[index] += total
            x = stage.leave(state)
            if stage.downsample is not None:
                x = stage.downsample(x)
    return (kept / np.maximum(there, 1)).tolist()


def _count(state: StageState, foreground_BHW: Tensor, level: int) -> tuple[int, int]:
    part, ranking = state.partitions[0], state.rankings[0]
    tokens = F.adaptive_max_pool2d(foreground_BHW[:, None], (state.height, state.width))
    tokens = F.pad(tokens.flatten(1), (0, 1))  # the padding's entry is no foreground
    windows_Bn = tokens[:, part.tokens_nN].amax(2) > 0
    chosen = ranking[:, : kept_windows(part.windows, level)]
    return int(windows_Bn.gather(1, chosen).sum()), int(windows_Bn.sum())
