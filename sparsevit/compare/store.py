"""The folder of a comparison: what is finished stays there and is used again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsevit.errors import ConfigError
from sparsevit.swin.checkpoints.writing import write_whole


class Store:
    """JSON documents by name, each there whole or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written: {error}.") from error

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> Any:
        """None where it is not there."""
        path = self.folder / name
        return json.loads(path.read_text()) if path.exists() else None

    def write(self, name: str, document: Any) -> Any:
        """Returns the document as it will be read."""
        text = json.dumps(document, indent=2)
        write_whole(self.path(name), text.encode() + b"\n")
        return json.loads(text)

    def check_same(self, name: str, question: dict[str, Any]) -> None:
        """Keeps what the folder is of. Raises ConfigError, naming what differs, where it is of
        something else."""
        before, now = self.read(name), json.loads(json.dumps(question))
        if before is None:
            self.write(name, now)
            return
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise ConfigError(
                    f"{self.folder} holds another comparison: its {key} was {before.get(key)}, now "
                    f"it is {now.get(key)}. Give another --output, or ask as before."
                )
