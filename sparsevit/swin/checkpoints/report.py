"""What was loaded from a checkpoint, what was left there, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHOWN = 3  # keys of a kind that a text names; files hold thousands
LONGEST = 120  # characters of a key that a text shows


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """How a checkpoint became a backbone; `print(model.load_report)` reads well.

    dialect: name of the naming it was written in, as save_backbone takes it. prefix: what stands
    before the backbone's names. loaded: tensors of the file that went into the backbone.
    left: reason -> the file's tensors left for it. notes: sentences on what was decided.
    """

    path: str
    dialect: str
    prefix: str
    loaded: int
    left: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        under = f" under {shown(self.prefix)!r}" if self.prefix else ""
        lines = [f"{shown(self.path)}: {self.loaded} tensors, dialect {self.dialect}{under}."]
        for reason, keys in self.left.items():
            lines.append(f"Left, {reason}: {len(keys)} ({some(keys)}).")
        return "\n".join([*lines, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "path": self.path,
            "dialect": self.dialect,
            "prefix": self.prefix,
            "loaded": self.loaded,
            "left": {reason: list(keys) for reason, keys in self.left.items()},
            "notes": list(self.notes),
        }


def shown(key: str) -> str:
    """A name out of a file, fit for a terminal: no control characters, no endless line."""
    text = key if key.isprintable() else ascii(key)[1:-1]
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def some(keys: list[str] | tuple[str, ...]) -> str:
    """The first few of many names."""
    more = ", ..." if len(keys) > SHOWN else ""
    return ", ".join(shown(key) for key in keys[:SHOWN]) + more
