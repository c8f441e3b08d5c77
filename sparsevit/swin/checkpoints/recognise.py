"""Where in a file's tensors a Swin lies, in which dialect, and what the rest is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsevit.errors import CheckpointMismatch
from sparsevit.swin.checkpoints.dialect import Dialect, fill
from sparsevit.swin.checkpoints.huggingface import (
    HUGGINGFACE,
    HUGGINGFACE_MASKFORMER,
    HUGGINGFACE_MEMORY,
)
from sparsevit.swin.checkpoints.microsoft import MICROSOFT
from sparsevit.swin.checkpoints.openmmlab import OPENMMLAB
from sparsevit.swin.checkpoints.report import shown, some
from sparsevit.swin.checkpoints.timm import TIMM, TIMM_FEATURES
from sparsevit.swin.checkpoints.torchvision import TORCHVISION
from sparsevit.swin.config import MAX_STAGES

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        MICROSOFT,
        TIMM,
        TIMM_FEATURES,
        TORCHVISION,
        HUGGINGFACE,
        HUGGINGFACE_MASKFORMER,
        HUGGINGFACE_MEMORY,
        OPENMMLAB,
    )
}

SWIN_V2 = re.compile(
    r"attn\.(\w+\.)?(logit_scale|cpb_mlp\.|meta_mlp\.)"
    r"|attention\.(\w+\.)?(logit_scale|continuous_position_bias_mlp\.)"
)
EMA = re.compile(r"(^|[._])ema([._]|$)", re.IGNORECASE)

DERIVED = "follows from the architecture"
UNUSED_NORM = "a final norm that a backbone with stage norms does not use"
REST = "another part of a larger model"
COPY = "an EMA copy"
TRAINING = "state of the training"
PASSED = (COPY, TRAINING)  # what training leaves behind, of no use with other weights
# In order: the first that a key matches is why it was left.
REASONS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (DERIVED, re.compile(r"(relative_position_index|relative_coords_table|attn_mask)$")),
    ("only used in pre-training", re.compile(r"(^|\.)mask_token$")),
    (COPY, EMA),
    (TRAINING, re.compile(r"(^|\.)(optim\w*|(lr_)?scheduler\w*|scaler)\.")),
    ("a head", re.compile(r"^(head|heads|classifier|fc)\.")),
    (UNUSED_NORM, re.compile(r"^(norm|(swin\.)?layernorm)\.")),
)


@dataclass(frozen=True)
class Place:
    """A backbone in a file: its dialect and what stands before its names."""

    dialect: Dialect
    prefix: str

    @property
    def outside(self) -> str:
        """What stands before the names of its stage norms."""
        return self.dialect.outside(self.prefix)

    def keys(self, ours: str) -> tuple[str, ...]:
        """The file's tensors that make up ours."""
        return tuple(self.prefix + key for key in self.dialect.keys(ours))

    def stage_norm(self, stage: int) -> str:
        """The file's output norm of a stage, in a dialect that has them."""
        return self.outside + fill(self.dialect.stage_norm or "", stage)

    def own(self, keys: Iterable[str]) -> list[str]:
        """Those of the file's tensors that are named as parts of this backbone are."""
        norm = self.dialect.stage_norm
        inner, outer = self.dialect.roots(), self.dialect.roots([norm] if norm else [])
        return [
            key
            for key in keys
            if (key.startswith(self.prefix) and inner.match(key, len(self.prefix)))
            or (key.startswith(self.outside) and outer.match(key, len(self.outside)))
        ]


def find(tensors: Mapping[str, Tensor], name: str) -> tuple[Place, tuple[str, ...]]:
    """The backbone to load, and notes on the choice; CheckpointMismatch where there is no Swin."""
    candidates = _candidates(tensors)
    prefixes = sorted(candidates, key=_rank)
    place = _best(tensors, candidates[prefixes[0]]) if prefixes else None
    second = next(filter(SWIN_V2.search, place.own(tensors) if place else tensors), None)
    if second is not None:
        raise CheckpointMismatch(
            f"{name} is a Swin V2 ({shown(second)}): its attention and its norms differ. This "
            "library computes the first Swin only."
        )
    if place is None:
        raise CheckpointMismatch(
            f"{name} holds no Swin backbone in a naming that is known here (docs/checkpoints.md "
            f"lists them). Its first tensors are {some(sorted(tensors))}."
        )
    return place, _choice(prefixes)


def reasons(place: Place, left: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Why each tensor is left, the reasons in their order."""
    found: dict[str, list[str]] = {reason: [] for reason, _ in REASONS} | {REST: []}
    for key in left:
        inner = _behind_common(key, place.prefix)
        fitting = (reason for reason, pattern in REASONS if pattern.search(inner))
        found[next(fitting, REST)].append(key)
    return {reason: tuple(sorted(keys)) for reason, keys in found.items() if keys}


def _candidates(tensors: Mapping[str, Tensor]) -> dict[str, list[Place]]:
    """The dialects that a backbone under each prefix may be in, as its blocks are named."""
    found: dict[str, list[Place]] = {}
    for dialect in DIALECTS.values():
        signature = dialect.signature
        for key in tensors:
            if f".{key}".endswith(f".{signature}"):
                prefix = key.removesuffix(signature)
                found.setdefault(prefix, []).append(Place(dialect, prefix))
    return found


def _best(tensors: Mapping[str, Tensor], places: list[Place]) -> Place:
    """Merges, then stage norms tell apart what has the same blocks; else the first."""

    def evidence(place: Place) -> tuple[bool, bool]:
        merge = place.keys("layers.0.downsample.reduction.weight")[0]
        norms = place.dialect.stage_norm is not None and any(
            f"{place.stage_norm(stage)}.weight" in tensors for stage in range(MAX_STAGES)
        )
        return merge in tensors, norms

    return max(places, key=evidence)


def _rank(prefix: str) -> tuple[bool, int, str]:
    return bool(EMA.search(prefix)), len(prefix), prefix


def _choice(prefixes: list[str]) -> tuple[str, ...]:
    if len(prefixes) == 1:
        return ()
    taken, *others = (repr(shown(prefix)) for prefix in prefixes)
    return (
        f"The file holds {len(prefixes)} Swins; the one under {taken} was loaded, not those under "
        f"{some(others)}.",
    )


def _behind_common(key: str, prefix: str) -> str:
    """The key without the leading names that it shares with the backbone's prefix."""
    theirs, ours = key.split("."), prefix.split(".")[:-1]
    shared = 0
    while shared < min(len(theirs), len(ours)) and theirs[shared] == ours[shared]:
        shared += 1
    return ".".join(theirs[shared:])
