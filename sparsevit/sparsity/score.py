"""Window scores: how important a window is. One small function each, all in fp32.

A score sees the tokens of each window of the stage input, once per stage and partition, and the
stage's blocks share it (paper, section 3.2):

    windows_BnNC  fp32, padded positions are zero
    real_nN1      1.0 = a real token, 0.0 = padding; None where nothing is padded
    returns       [B, n], higher = kept longer

Stage inputs come out of a LayerNorm, so their norms are nearly constant; what `variance` measures,
how much tokens differ inside a window, survives the LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsevit.errors import ConfigError

ScoreFunction = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class WindowScore:
    """A named score. after_first_block: it sees the output of the stage's first block, which then
    computes every window."""

    name: str
    function: ScoreFunction
    after_first_block: bool = False


def l2(windows_BnNC: Tensor, real_nN1: Tensor | None) -> Tensor:
    """L2 norm of the window's activation (the paper's text)."""
    return windows_BnNC.pow(2).sum((2, 3)).sqrt()


def mean_abs(windows_BnNC: Tensor, real_nN1: Tensor | None) -> Tensor:
    """mean|x| over channels, then L2 over the window's tokens (the released code's formula)."""
    return windows_BnNC.abs().mean(3).pow(2).sum(2).sqrt()


def variance(windows_BnNC: Tensor, real_nN1: Tensor | None) -> Tensor:
    """Sum over channels of the variance over the window's real tokens."""
    tokens = windows_BnNC.shape[2] if real_nN1 is None else real_nN1.sum(1).clamp(min=1)
    mean_BnC = windows_BnNC.sum(2) / tokens
    square_Bn = windows_BnNC.pow(2).sum((2, 3)) / (
        tokens if real_nN1 is None else tokens.squeeze(-1)
    )
    return square_Bn - mean_BnC.pow(2).sum(2)


def random(windows_BnNC: Tensor, real_nN1: Tensor | None) -> Tensor:
    """A control: a number that has nothing to do with importance, yet is a function of the input
    alone, so that results repeat."""
    return torch.frac(windows_BnNC.sum((2, 3)).abs() * 997.0)


SCORES: dict[str, WindowScore] = {
    "l2": WindowScore("l2", l2),
    "mean_abs": WindowScore("mean_abs", mean_abs),
    "variance": WindowScore("variance", variance),
    "late": WindowScore("late", l2, after_first_block=True),
    "random": WindowScore("random", random),
}


def get_score(name: str) -> WindowScore:
    """The score called `name`; ConfigError names the known ones."""
    if name not in SCORES:
        raise ConfigError(f"there is no score {name!r}; known are {', '.join(sorted(SCORES))}.")
    return SCORES[name]
