"""The tensors of a backbone in any dialect, renamed and reordered to SparseSwin's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sparsevit.errors import CheckpointMismatch
from sparsevit.swin.checkpoints.dialect import POSITIONS, fill, grid_from_list, our_keys
from sparsevit.swin.checkpoints.recognise import (
    DERIVED,
    REST,
    UNUSED_NORM,
    Place,
    reasons,
)
from sparsevit.swin.checkpoints.report import some

# Tensors under a backbone's own name that it computes the same without.
HARMLESS = (DERIVED, "only used in pre-training", UNUSED_NORM)
LEAVES = ("weight", "bias")


@dataclass
class Translation:
    """A backbone out of a file.

    own: its tensors by our names. sources: the file's tensors that each was made of. depths: blocks
    of each stage. left: reason -> the file's other tensors. single_norm: its only output norm is
    the last stage's, named as a classifier of its dialect names it.
    """

    place: Place
    depths: tuple[int, ...]
    own: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left: dict[str, tuple[str, ...]] = field(default_factory=dict)
    single_norm: bool = False

    @property
    def normed(self) -> list[int]:
        """Stages that have an output norm in the file."""
        stages = range(len(self.depths))
        return [i for i in stages if any(f"norm{i}.{leaf}" in self.own for leaf in LEAVES)]

    def theirs(self, ours: str) -> str:
        """What the file calls our tensor, for messages."""
        if ours in self.sources:
            return " + ".join(self.sources[ours])
        try:
            return " + ".join(self.place.keys(ours))
        except KeyError:
            return ours  # an output norm or positions, whose names a dialect may not have


def translate(
    tensors: Mapping[str, Tensor], place: Place, name: str, grid: tuple[int, int] | None = None
) -> Translation:
    """The backbone at `place`, nothing of it left behind.

    grid: (rows, columns) of its absolute positions where they are known not to be square.
    CheckpointMismatch where a tensor has no place in a Swin: the network would compute something
    else without it.
    """
    found = Translation(place, _depths(tensors, place))
    for ours in our_keys(found.depths):
        keys = place.keys(ours)
        if all(key in tensors for key in keys):
            _take(found, tensors, ours, keys, name)
    _take_norms(found, tensors)
    _take_positions(found, tensors, name, grid)
    used = {key for keys in found.sources.values() for key in keys}
    found.left = reasons(place, (key for key in tensors if key not in used))
    harmless = {key for reason in HARMLESS for key in found.left.get(reason, ())}
    unknown = [key for key in place.own(tensors) if key not in used and key not in harmless]
    if unknown:
        raise CheckpointMismatch(
            f"{name} has tensors in its backbone that this Swin has no place for: {some(unknown)}. "
            "It would compute something else without them."
        )
    return found


def _depths(tensors: Mapping[str, Tensor], place: Place) -> tuple[int, ...]:
    """Blocks of each stage: how far its names count."""

    def blocks(stage: int) -> int:
        count = 0
        while place.keys(f"layers.{stage}.blocks.{count}.attn.qkv.weight")[0] in tensors:
            count += 1
        return count

    depths: list[int] = []
    while depth := blocks(len(depths)):
        depths.append(depth)
    return tuple(depths)


def _take(
    found: Translation,
    tensors: Mapping[str, Tensor],
    ours: str,
    keys: tuple[str, ...],
    name: str,
) -> None:
    try:
        found.own[ours] = found.place.dialect.read(ours, [tensors[key] for key in keys])
    except ValueError as error:
        raise CheckpointMismatch(f"{name}: {error} ({some(keys)}).") from error
    found.sources[ours] = keys


def _take_norms(found: Translation, tensors: Mapping[str, Tensor]) -> None:
    """Output norms of stages, or else the final norm of a classifier as the last stage's."""
    place, last = found.place, len(found.depths) - 1
    if place.dialect.stage_norm is not None:
        for stage in range(len(found.depths)):
            _take_norm(found, tensors, stage, place.stage_norm(stage))
    finals = [place.prefix + fill(template, last) for template in place.dialect.final_norms]
    for final in finals:
        if last not in found.normed:
            _take_norm(found, tensors, last, final)
    if found.normed == [last]:
        found.single_norm = any(f"{final}.weight" in tensors for final in finals)


def _take_norm(found: Translation, tensors: Mapping[str, Tensor], stage: int, module: str) -> None:
    for leaf in LEAVES:
        key, ours = f"{module}.{leaf}", f"norm{stage}.{leaf}"
        if key in tensors:
            found.own[ours], found.sources[ours] = tensors[key], (key,)


def _take_positions(
    found: Translation, tensors: Mapping[str, Tensor], name: str, grid: tuple[int, int] | None
) -> None:
    keys = [found.place.prefix + name for name in found.place.dialect.positions]
    key = next((key for key in keys if key in tensors), None)
    if key is None:
        return
    positions = tensors[key]
    if positions.ndim == 3:
        positions = grid_from_list(positions, grid, name)
    if positions.ndim != 4:
        raise CheckpointMismatch(
            f"{name}: {key} is {list(positions.shape)}; absolute positions are [1, places, channels] "
            "or [1, channels, rows, columns]."
        )
    found.own[POSITIONS], found.sources[POSITIONS] = positions, (key,)


def default_small_map(found: Translation) -> str:
    """What the libraries that write such files do with a map no larger than a window.

    Classifiers of the original code and of transformers leave it whole, detectors shift it. Where
    a family names the norm of a classifier as a detector's, a neck or another head tells. A Swin with
    a norm for its last stage alone is a classifier's too: sparsify leaves such models.
    """
    dialect = found.place.dialect
    if dialect.small_map is not None:
        return dialect.small_map
    if found.single_norm or set(found.normed) == {len(found.depths) - 1}:
        return (
            "shift" if REST in found.left and (dialect.alike or not found.single_norm) else "whole"
        )
    return "shift" if found.normed or REST in found.left else "whole"
