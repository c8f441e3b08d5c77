"""From window scores to the windows a block computes."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsevit.errors import ConfigError
from sparsevit.sparsity.score import WindowScore
from sparsevit.swin.portions import portions
from sparsevit.swin.windows import Partition


@torch.no_grad()
def rank_windows(
    score: WindowScore, partition: Partition, table_TC: Tensor, tokens_BnN: Tensor
) -> Tensor:
    """Window indices [B, n] by falling score; ties go to the lower index.

    table_TC: the stage's tokens; tokens_BnN: the rows of it that make up each window.
    Scores are fp32 whatever the model's precision: rounding flips windows, and a flipped window
    changes the output by more than any rounding does.
    """
    batch, windows, tokens = tokens_BnN.shape
    scores = []
    for part in portions(windows, batch * tokens, table_TC):
        here = tokens_BnN[:, part]
        rows = table_TC.index_select(0, here.reshape(-1)).view(*here.shape, -1).float()
        real = None
        if partition.real_nN is not None:
            real = partition.real_nN[part, :, None].float()
            rows = rows * real
        scores.append(_apply(score, rows, real))
    scores_Bn = torch.cat(scores, 1) if len(scores) > 1 else scores[0]
    if scores_Bn.shape != (batch, windows):
        raise ConfigError(
            f"score {score.name!r} returned {list(scores_Bn.shape)} for [images, windows] = "
            f"{[batch, windows]}; it must return one number for each window."
        )
    if torch.onnx.is_in_onnx_export():
        # ONNX has no stable sort, but its TopK gives ties to the lower index, which torch's may not.
        return torch.topk(scores_Bn, windows, dim=1).indices
    return torch.sort(scores_Bn, dim=1, descending=True, stable=True).indices


def _apply(score: WindowScore, windows_BnNC: Tensor, real_nN1: Tensor | None) -> Tensor:
    device = windows_BnNC.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return score.function(windows_BnNC, real_nN1).float()
    return score.function(windows_BnNC, real_nN1).float()
