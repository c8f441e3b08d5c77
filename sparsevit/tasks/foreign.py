"""Task models in checkpoints of other libraries: what is where, and how it is written back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from torch import Tensor

from sparsevit.data.preprocess import Preprocess
from sparsevit.swin.checkpoints.dialect import POSITIONS
from sparsevit.swin.checkpoints.recognise import DIALECTS, PASSED
from sparsevit.swin.checkpoints.translate import Translation

BACKBONE = "backbone."


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A file or folder of another library that holds a Swin, for a task to look for its head.

    name: for messages. tensors: all of the file, by its names. backbone: its Swin. width: channels
    of its last stage. config: the content of a config.json beside the weights, or None. task: that it
    is asked for, or None: a checkpoint may not say which of two it was trained for.
    """

    name: str
    tensors: Mapping[str, Tensor]
    backbone: Translation
    width: int
    config: Mapping[str, Any] | None
    task: str | None = None

    @property
    def around(self) -> list[str]:
        """What may stand before the names of a head: the backbone's prefix, then what holds it, out
        to the whole file."""
        parts = self.backbone.place.prefix.split(".")[:-1]
        return [".".join([*parts[:count], ""]) for count in range(len(parts), -1, -1)]


@dataclass(frozen=True)
class ForeignHead:
    """Where a task's head lies.

    description: as TaskModel.describe. names: the beginnings of our tensors' names to theirs, such
    as {"head.fc.": "classifier."}. out_stages: of the backbone, see SparseSwin. preprocess: where
    the checkpoint says nothing of it.
    """

    description: dict[str, Any]
    names: Mapping[str, str]
    out_stages: tuple[int, ...] | None
    preprocess: Preprocess = field(default_factory=Preprocess)

    def theirs(self, ours: str) -> str | None:
        """What the file calls our tensor of the head; None where no name says it."""
        for begin, beginning in self.names.items():
            if ours.startswith(begin):
                return beginning + ours.removeprefix(begin)
        return None


@dataclass(frozen=True)
class Origin:
    """How the tensors of a checkpoint are named and laid out; `tensors` writes a model's so again.

    dialect: of the backbone. names: as of ForeignHead. sources: our tensors to the file's that each
    was made of. listed_positions: whether absolute positions are [1, L, C] there. rest: tensors that
    the model computes the same without, but the other library reads.
    Names are without what stood before all of them (`state_dict.`, `module.`): that belonged to the
    file, and not to the network.
    """

    dialect: str
    names: Mapping[str, str]
    sources: Mapping[str, tuple[str, ...]]
    listed_positions: bool
    rest: Mapping[str, Tensor]

    def tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's tensors out of a task model's state dict, on the CPU, each with its own memory."""
        written: dict[str, Tensor] = dict(self.rest)
        for ours, theirs in self.sources.items():
            pieces = self._pieces(ours, state[ours].detach().cpu())
            written |= zip(theirs, pieces, strict=True)
        return {key: tensor.contiguous().clone() for key, tensor in written.items()}

    def _pieces(self, ours: str, tensor: Tensor) -> list[Tensor]:
        part = ours.removeprefix(BACKBONE)
        if part == ours or part.startswith("norm"):
            return [tensor]
        if part == POSITIONS:
            return [tensor.flatten(2).transpose(1, 2) if self.listed_positions else tensor]
        return list(DIALECTS[self.dialect].write(part, tensor).values())

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self  # nothing of it ever changes


def origin_of(
    checkpoint: ForeignCheckpoint, sources: Mapping[str, tuple[str, ...]], names: Mapping[str, str]
) -> Origin:
    """sources: our tensors to the file's, of the whole model."""
    found, tensors = checkpoint.backbone, checkpoint.tensors
    used = {key for keys in sources.values() for key in keys}
    shared = _shared(used)
    dropped = {key for reason in PASSED for key in found.left.get(reason, ())}
    rest = {
        key.removeprefix(shared): tensor
        for key, tensor in tensors.items()
        if key not in used and key not in dropped and key.startswith(shared)
    }
    positions = sources.get(BACKBONE + POSITIONS)
    return Origin(
        dialect=found.place.dialect.name,
        names={ours: theirs.removeprefix(shared) for ours, theirs in names.items()},
        sources={o: tuple(k.removeprefix(shared) for k in keys) for o, keys in sources.items()},
        listed_positions=positions is not None and tensors[positions[0]].ndim == 3,
        rest=rest,
    )


def _shared(keys: set[str]) -> str:
    """What stands before all names, up to a dot: the first and the last in order tell."""
    modules = zip(min(keys).split(".")[:-1], max(keys).split(".")[:-1], strict=False)
    return "".join(f"{one}." for one, _ in takewhile(lambda pair: pair[0] == pair[1], modules))
