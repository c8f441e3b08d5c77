"""One way to name a JSON document by its content. Importable without torch."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sparsevit.errors import ConfigError


def canonical_digest(document: dict[str, Any]) -> str:
    """sha256, in hex, of the document as JSON with sorted keys and no spaces.

    Tuples count as lists. Raises ConfigError for what JSON cannot say (NaN, infinity, objects).
    """
    try:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the document cannot be written as JSON: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()
