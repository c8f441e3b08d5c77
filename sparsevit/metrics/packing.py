"""Arrays of counts as text: a search moves millions of them, and lists of numbers are slow JSON."""

from __future__ import annotations

import base64

import numpy as np


def packed(counts: np.ndarray) -> str:
    """Whole numbers of any shape as "<type> <shape> <base64>", such as "i4 8x3x19 AAA..."."""
    small = not counts.size or np.abs(counts).max() < 2**31
    kind = "i4" if small else "i8"
    shape = "x".join(map(str, counts.shape))
    return f"{kind} {shape} {base64.b64encode(counts.astype('<' + kind).tobytes()).decode()}"


def unpacked(text: str) -> np.ndarray:
    """int64, as it was packed."""
    kind, shape, content = text.split(" ")
    flat = np.frombuffer(base64.b64decode(content), "<" + kind)
    return flat.astype(np.int64).reshape([int(side) for side in shape.split("x")])
