"""Files that are there whole or not at all, and the same whenever their content is."""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

ALIGNMENT = 8  # of a safetensors header, in bytes


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file: the same bytes for the same content, so that its hash says what is in it.

    The library itself writes the metadata in a random order.
    """
    from safetensors.torch import save

    raw = save(dict(tensors), dict(metadata))
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return b"".join((struct.pack("<Q", len(text)), text, raw[8 + length :]))


def write_whole(path: Path, content: bytes) -> None:
    """Writes the file beside its place and moves it there; makes the folder where there is none.

    The name on the way cannot be guessed and is made new: nobody can have put a link there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as file:
            file.write(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
