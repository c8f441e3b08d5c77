"""Reading the best config JSON: what a user deploys. Importable without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import SparsityConfig

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class DeployConfig:
    """A best config: the sparsity to apply and the document it came with.

    document: everything that was measured (metric, latency_ms, receipt, input, preprocess, ...).
    """

    sparsity: SparsityConfig
    weights_sha256: str | None
    document: dict[str, Any]

    def check_weights(self, sha256: str | None) -> None:
        """ConfigError when the config was measured with other weights than those of `sha256`."""
        if self.weights_sha256 is not None and sha256 != self.weights_sha256:
            raise ConfigError(
                f"the config was measured with the weights {self.weights_sha256[:12]}..., the model "
                f"holds {(sha256 or 'weights made in memory')[:22]}: load the checkpoint that the "
                "config was searched for, or search again with this one."
            )


def load_config(path: str | Path) -> DeployConfig:
    """Reads a best config JSON, or a bare {"sparsity": ..., "score": ...}.

    Raises ConfigError when the file is no such document, FileNotFoundError when there is none.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is no JSON document: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is no config: its top level must be an object.")
    version = document.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema_version {version}; this release reads {SCHEMA_VERSION}."
        )
    weights = document.get("weights") or {}
    return DeployConfig(SparsityConfig.from_dict(document), weights.get("sha256"), document)
