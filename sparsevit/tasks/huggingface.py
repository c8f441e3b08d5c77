"""What config.json says of a model's head: class names, and the settings of transformers' heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsevit.errors import CheckpointMismatch, ConfigError
from sparsevit.tasks.foreign import ForeignCheckpoint

MAX_WIDTH = 16_384
MAX_LAYERS = 100
MAX_POINTS = 10**6
BACKBONES = ("swin", "sparse_swin")

Check = int | type[bool] | type[float] | type[str] | type[list]


def label_names(config: Mapping[str, Any] | None, classes: int, name: str) -> list[str]:
    """The classes' names by index: transformers' `id2label`, timm's `label_names`, else numbers.

    CheckpointMismatch where the config names another number of classes than the head has.
    """
    config = config or {}
    named = config.get("id2label") or config.get("label_names")
    if not named:
        return [str(index) for index in range(classes)]
    if isinstance(named, Mapping):
        labels = [named.get(str(index)) for index in range(classes)]
    else:
        labels = list(named) if isinstance(named, list) else []
    whole = len(labels) == len(named) == classes and all(isinstance(n, str) for n in labels)
    if not whole:
        raise CheckpointMismatch(
            f"{name}: its head tells {classes} classes apart, and config.json does not name each of "
            "these and no other."
        )
    return labels


def settings_of(
    config: Mapping[str, Any], fields: Mapping[str, Check], name: str
) -> dict[str, Any]:
    """The named settings of a head out of a config.json; what it leaves out is not in the answer.

    fields: what each may be, see `check_settings`. CheckpointMismatch where it is not that.
    """
    found = {field: config[field] for field in fields if config.get(field) is not None}
    try:
        check_settings(found, fields)
    except ConfigError as error:
        raise CheckpointMismatch(f"{name}: in config.json {error}") from error
    return found


def check_settings(settings: Mapping[str, Any], fields: Mapping[str, Check]) -> None:
    """ConfigError unless each setting is a known field, and what that may be: a whole number from 1
    up to the given one, or of the given type; a list is of such numbers up to MAX_WIDTH.

    A file may claim anything: a network of a billion layers must not even be described.
    """
    for field, value in settings.items():
        if field not in fields:
            raise ConfigError(f"{field!r} is no setting of this head.")
        if not _fits(value, fields[field]):
            raise ConfigError(f"{field} is {value!r:.60}, which is not possible.")


def _fits(value: Any, check: Check) -> bool:
    if isinstance(check, int):
        return type(value) is int and 1 <= value <= check
    if check is float:
        return type(value) in (int, float) and 0 <= value <= MAX_POINTS  # NaN fails too
    if check is list:
        whole = isinstance(value, list) and 1 <= len(value) <= MAX_LAYERS
        return whole and all(_fits(entry, MAX_WIDTH) for entry in value)
    return type(value) is check


def out_stages(checkpoint: ForeignCheckpoint) -> tuple[int, ...]:
    """The stages whose maps a transformers model with a Swin backbone uses.

    CheckpointMismatch where its config.json names another backbone, or no stages of this one.
    """
    backbone = (checkpoint.config or {}).get("backbone_config")
    if not isinstance(backbone, Mapping) or backbone.get("model_type") not in BACKBONES:
        raise CheckpointMismatch(
            f"{checkpoint.name}: config.json has no backbone_config of a Swin "
            f"({', '.join(BACKBONES)})."
        )
    count = len(checkpoint.backbone.depths)
    names = [f"stage{stage + 1}" for stage in range(count)]
    wanted = backbone.get("out_features")
    if not isinstance(wanted, list) or not wanted or not all(name in names for name in wanted):
        raise CheckpointMismatch(
            f"{checkpoint.name}: out_features of its backbone_config must list some of {names}."
        )
    return tuple(sorted(names.index(name) for name in wanted))


def built(heads: Any) -> Any:
    """heads(): transformers' modules. ConfigError where they cannot be built of their settings.

    transformers checks its configs by errors of many kinds, some of its own.
    """
    try:
        return heads()
    except ImportError as error:
        raise ConfigError(
            "this head is one of transformers: pip install 'sparsevit[huggingface]'."
        ) from error
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"transformers cannot build such a head: {error}") from error


def class_names(checkpoint: ForeignCheckpoint, layer: str, others: int = 0) -> list[str]:
    """Names for the outputs of the layer that tells classes apart; the last `others` are no classes."""
    weight = checkpoint.tensors.get(f"{layer}.weight")
    if weight is None or not weight.ndim:
        raise CheckpointMismatch(f"{checkpoint.name} lacks {layer}.weight.")
    return label_names(checkpoint.config, weight.shape[0] - others, checkpoint.name)
