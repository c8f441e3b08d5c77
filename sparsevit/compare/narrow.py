"""A task model with a narrower backbone: its head keeps what reads the channels that are left."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsevit.errors import ConfigError
from sparsevit.swin.narrow import Narrowed, narrowed, take
from sparsevit.tasks.base import TaskModel


def narrow_model(model: TaskModel, share: float, rule: str = "l1") -> TaskModel:
    """A model of about this share of the width, cut out of a trained one, which stays as it is.

    See sparsevit.swin.narrow. It is in the format of this library, whatever the model came from, and
    not adapted. Raises ConfigError where a head reads the backbone's channels in a way not known here.
    """
    narrow = narrowed(model.backbone, share, rule)
    made = type(model).from_description(narrow.backbone, model.describe(), model.preprocess)
    wide, head = model.head.state_dict(), made.head.state_dict()
    made.head.load_state_dict(
        {name: _cut(name, wide[name], shape.shape, model, narrow) for name, shape in head.items()}
    )
    return made.to(next(model.parameters())).train(model.training)


def _cut(
    name: str, tensor: Tensor, shape: torch.Size, model: TaskModel, narrow: Narrowed
) -> Tensor:
    indices = tuple(
        None if wide == left else _read(name, wide, wide - left, model, narrow)
        for wide, left in zip(tensor.shape, shape, strict=True)
    )
    return take(tensor, indices)


def _read(name: str, wide: int, lost: int, model: TaskModel, narrow: Narrowed) -> Tensor:
    """What is left of a dimension that begins with the channels of one output stage, or of all of them
    in a row. How many it lost tells which: stages differ in it by factors of two."""
    dims, out = model.backbone.config.dims, model.backbone.out_stages
    for stages in (*((stage,) for stage in out), out):
        kept = [narrow.channels[stage] for stage in stages]
        widths = [dims[stage] for stage in stages]
        total = sum(widths)
        if lost == total - sum(map(len, kept)) and total <= wide:
            starts = [sum(widths[:i]) for i in range(len(widths))]
            rest = torch.arange(total, wide, device=kept[0].device)
            return torch.cat([*(k + s for k, s in zip(kept, starts, strict=True)), rest])
    raise ConfigError(
        f"{type(model).__name__} cannot be made narrower: what its {name} reads is not known."
    )
