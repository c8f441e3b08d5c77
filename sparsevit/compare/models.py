"""Where the models of a comparison come from: the user's checkpoint, whole or narrower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsevit.compare.narrow import narrow_model
from sparsevit.compare.rows import Row
from sparsevit.compare.sizes import Size
from sparsevit.search.steps import Session
from sparsevit.tasks.files import load_model, save_model


@dataclass(frozen=True)
class Models:
    """Sessions on weights at a size. input: without height and width. folder: for narrow weights.
    task, score: as Session has them."""

    checkpoint: str | Path
    dataset: str | Path | Mapping[str, Any]
    device: str
    input: Mapping[str, Any]
    score: str | None
    folder: Path
    rule: str
    measure_seconds: float

    def session(self, size: Size | None, weights: str | Path | None = None) -> Session:
        """size: (height, width), None: the data set's own. weights: None: the checkpoint's."""
        sides = {} if size is None else {"height": size[0], "width": size[1]}
        return Session(
            weights or self.checkpoint,
            self.dataset,
            self.device,
            {**self.input, **sides},
            score=self.score,
            measure_seconds=self.measure_seconds,
        )

    def untrained(self, row: Row) -> Session:
        """The row's model before its training."""
        return self.session(row.size, self._weights(row.width))

    def _weights(self, width: float) -> str | Path:
        if width == 1:
            return self.checkpoint
        path = self.folder / f"narrow-{width:g}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_model(narrow_model(load_model(self.checkpoint), width, self.rule), path)
        return path
