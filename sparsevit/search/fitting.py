"""Which input does fit, where the one that was asked for does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sparsevit.errors import DeviceOutOfMemory
from sparsevit.latency.allocator import release_memory
from sparsevit.latency.memory import largest_size, memory_errors, renew_limit
from sparsevit.search.inputs import PRECISIONS
from sparsevit.sparsity.config import SparsityConfig

if TYPE_CHECKING:
    from sparsevit.search.steps import Session


def too_large(session: Session) -> str:
    """What to tell who asked for the session's input, with the largest size that fits."""
    height, width, batch = (session.input[name] for name in ("height", "width", "batch"))
    fitting = largest_size(lambda *size: _fits(session, *size), height, width)
    largest = "x".join(map(str, fitting)) if fitting else "none, not even a small one"
    return (
        f"the model does not fit {session.device_facts['model']} at {height}x{width} with batch "
        f"{batch}; the largest size of this shape that did: {largest}. Use that, or a smaller "
        "batch."
    )


@torch.inference_mode()
def _fits(session: Session, height: int, width: int) -> bool:
    """Whether a forward of the dense model at this size does not run out of memory."""
    session.model.set_sparsity(SparsityConfig.dense(session.pairs, session.score))
    channels = session.model.backbone.config.in_channels
    shape = (session.input["batch"] * session.model.views, channels, height, width)
    release_memory()
    renew_limit()
    try:
        with memory_errors():
            dtype = PRECISIONS[session.input["precision"]]
            session.model(torch.zeros(shape, device=session.device, dtype=dtype))
    except DeviceOutOfMemory:
        return False
    return True
