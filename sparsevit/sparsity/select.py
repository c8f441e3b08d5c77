"""From window scores to the windows a block computes."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsevit.sparsity.score import WindowScore
from sparsevit.swin.windows import Partition


def gather_windows(table_TC: Tensor, tokens_BnN: Tensor) -> Tensor:
    """Rows of the token table as windows: [B, n, N, C]."""
    return table_TC.index_select(0, tokens_BnN.reshape(-1)).view(*tokens_BnN.shape, -1)


def rank_windows(
    score: WindowScore, partition: Partition, table_TC: Tensor, tokens_BnN: Tensor
) -> Tensor:
    """Window indices [B, n] by falling score; ties go to the lower index.

    Scores are fp32 whatever the model's precision: rounding flips windows, and a flipped window
    changes the output by more than any rounding does.
    """
    with torch.no_grad():
        windows = gather_windows(table_TC, tokens_BnN).float()
        real = None
        if partition.real_nN is not None:
            real = partition.real_nN[:, :, None].float()
            windows = windows * real
        scores_Bn = score.function(windows, real)
        return torch.sort(scores_Bn, dim=1, descending=True, stable=True).indices
