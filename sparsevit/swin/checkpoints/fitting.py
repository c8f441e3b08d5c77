"""Whether a file's tensors are those of a network, found out before the network gets memory.

What a file says of its architecture may be absurd; what its tensors hold is bounded by its size.
So the network is first built on torch's meta device, which has shapes and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from sparsevit.errors import CheckpointMismatch

WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_fit(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    name: str,
    optional: Collection[str] = (),
    shown: Callable[[str], str] = str,
) -> None:
    """Raises CheckpointMismatch unless the tensors are exactly the network's.

    Each must be there (those of `optional` may lack), of its shape, a float type (a counter of the
    network: its own type), and finite in fp32. Only names, shapes and types of `network` are looked
    at: it may lie on the meta device.
    shown: what the file calls a tensor of the network, where it has other names.
    """
    expected = network.state_dict()
    missing = sorted(expected.keys() - tensors.keys() - set(optional))
    unknown = sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointMismatch(
            f"{name} does not fit its architecture: missing {[shown(k) for k in missing[:3]]}, "
            f"unknown {[shown(k) for k in unknown[:3]]}."
        )
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointMismatch(
                f"{name}: {shown(key)} is {list(tensor.shape)}, the architecture needs "
                f"{list(expected[key].shape)}."
            )
        if tensor.dtype not in (*WEIGHT_TYPES, expected[key].dtype):
            raise CheckpointMismatch(
                f"{name}: {shown(key)} is {tensor.dtype}; weights are float16, bfloat16, float32 or "
                "float64."
            )
    # Values last, since this reads every tensor; large float64 numbers are infinite in fp32.
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor.float()).all():
            raise CheckpointMismatch(f"{name}: {shown(key)} holds NaN or infinite weights.")
