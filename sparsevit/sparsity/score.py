"""Window scores: how important a window is. One small function each, all in fp32.

A score sees the tokens of each window, once per stage and partition, and the stage's blocks share it
(paper, section 3.2):

    windows_BnNC  fp32, padded positions are zero
    real_nN1      1.0 = a real token, 0.0 = padding; None where nothing is padded
    returns       [B, n], higher = kept longer

It judges each window by itself: the windows of a map may be handed over in several portions.
Stage inputs come out of a LayerNorm, so their norms are nearly constant; what `variance` measures,
how much tokens differ inside a window, survives the LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from sparsevit.errors import ConfigError

ScoreFunction = Callable[[Tensor, Tensor | None], Tensor]


class Moment(Enum):
    """Which tokens a score sees."""

    STAGE_INPUT = "stage input"
    FIRST_BLOCK = "output of the first block, which then computes every window"
    FIRST_SPARSE_PAIR = "input of the first block pair that drops windows"


@dataclass(frozen=True)
class WindowScore:
    """A named score and the tokens it sees."""

    name: str
    function: ScoreFunction
    moment: Moment = Moment.STAGE_INPUT


def l2(windows_BnNC: Tensor, real_nN1: Tensor | None) -> Tensor:
    """L2 norm of the window's activation (the paper's text)."""
    return torch.linalg.vector_norm(windows_BnNC, dim=(2, 3))


def mean_abs(windows_BnNC: Tensor, real_nN1: Tensor | None) -> Tensor:
    """mean|x| over channels, then L2 over the window's tokens (the released code's formula)."""
    return torch.linalg.vector_norm(windows_BnNC.abs().mean(3), dim=2)


def variance(windows_BnNC: Tensor, real_nN1: Tensor | None) -> Tensor:
    """Sum over channels of the variance over the window's real tokens."""
    tokens = windows_BnNC.shape[2] if real_nN1 is None else real_nN1.sum(1, True).clamp(min=1)
    # About the mean first: of squares and sums alone little is left where the mean is large.
    centred = windows_BnNC - windows_BnNC.sum(2, keepdim=True) / tokens
    if real_nN1 is not None:
        centred, tokens = centred * real_nN1, tokens.flatten()
    return torch.linalg.vector_norm(centred, dim=(2, 3)).pow(2) / tokens


def random(windows_BnNC: Tensor, real_nN1: Tensor | None) -> Tensor:
    """A control: a number that has nothing to do with importance, yet is a function of the input
    alone. It ranks by the last digits of a sum: another batch, or a compiler, may rank anew."""
    return torch.frac(windows_BnNC.sum((2, 3)).abs() * 997.0)


SCORES: dict[str, WindowScore] = {
    "l2": WindowScore("l2", l2),
    "mean_abs": WindowScore("mean_abs", mean_abs),
    "variance": WindowScore("variance", variance),
    "late": WindowScore("late", l2, Moment.FIRST_BLOCK),
    "released": WindowScore("released", mean_abs, Moment.FIRST_SPARSE_PAIR),
    "random": WindowScore("random", random),
}


def get_score(name: str) -> WindowScore:
    """The score called `name`; ConfigError names the known ones."""
    if name not in SCORES:
        raise ConfigError(
            f"there is no score {name!r}; known are {', '.join(sorted(SCORES))}. One of your own is "
            "made known by sparsevit.register_score(name, function)."
        )
    return SCORES[name]


def register_score(
    name: str, function: ScoreFunction, moment: Moment = Moment.STAGE_INPUT
) -> WindowScore:
    """Makes a score of your own known under `name`, for SparsityConfig(ratios, name).

    function(windows_BnNC, real_nN1) -> [B, n], as described at the top of this file. It runs without
    gradients. The name must be new: results state scores by name, and a name means one thing.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError("a score needs a name.")
    if name in SCORES and SCORES[name] != WindowScore(name, function, moment):
        raise ConfigError(f"there is a score {name!r} already; choose another name.")
    SCORES[name] = WindowScore(name, function, moment)
    return SCORES[name]
