"""One call that swaps the Swin inside a model of transformers, timm or torchvision for a SparseSwin."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TypeVar

from torch import nn

from sparsevit.errors import ConfigError
from sparsevit.integrations.convert import SECOND
from sparsevit.swin.model import SparseSwin

Model = TypeVar("Model", bound=nn.Module)
Found = tuple[nn.Module, tuple[nn.Module, ...], str]

TRANSFORMERS = "sparsevit.integrations.transformers_swap"
TIMM = "sparsevit.integrations.timm"
TORCHVISION = "sparsevit.integrations.torchvision"
# Classes that can be swapped, and the module whose `swap` does it. By name: no library is imported
# but the one the model comes from.
SWINS = {
    "transformers.models.swin.modeling_swin.SwinForImageClassification": TRANSFORMERS,
    "transformers.models.swin.modeling_swin.SwinBackbone": TRANSFORMERS,
    "transformers.models.swin.modeling_swin.SwinModel": TRANSFORMERS,
    "transformers.models.maskformer.modeling_maskformer_swin.MaskFormerSwinBackbone": TRANSFORMERS,
    "timm.models.swin_transformer.SwinTransformer": TIMM,
    "torchvision.models.swin_transformer.SwinTransformer": TORCHVISION,
}
HOSTS = (
    "SwinForImageClassification, SwinModel, SwinBackbone and models around it (UperNet, MaskFormer, "
    "Mask2Former) of transformers, SwinTransformer of timm and of torchvision"
)


def sparsify(model: Model) -> Model:
    """Swaps the Swin inside `model` for a dense SparseSwin with its weights, in place.

    Returns `model` itself: in eval mode its outputs are what they were, until
    `find_backbone(model).set_sparsity(config)`. Types, devices, training mode and requires_grad are
    kept; the parameters of the Swin are new objects, so make optimisers afterwards. A model that is
    sparse already is returned untouched. docs/integrations.md says what each library's model keeps
    and loses.

    Raises ConfigError where there is no Swin, more than one, or one that SparseSwin does not
    compute (another activation, quantised, windows that differ by stage, Swin V2), CheckpointMismatch
    where its weights do not fit. The model is then unchanged. Warns where the Swin trains with
    drop rates: SparseSwin has none.
    """
    found = list(_swins(model, ()))
    sparse = any(isinstance(module, SparseSwin) for module in model.modules())
    if sparse and not found:
        return model
    if len(found) != 1 or sparse:
        raise ConfigError(_why_not(model, len(found) + sparse))
    module, around, integration = found[0]
    importlib.import_module(integration).swap(module, around)
    return model


def find_backbone(model: nn.Module) -> SparseSwin:
    """The SparseSwin inside any model that holds exactly one; ConfigError otherwise.

    `find_backbone(model).set_sparsity(config)` decides what is skipped from then on,
    `find_backbone(model).executed_windows` says what the last forward computed.
    """
    found = [module for module in model.modules() if isinstance(module, SparseSwin)]
    if len(found) != 1:
        hint = "" if found else " Call sparsevit.sparsify on it first."
        raise ConfigError(f"{type(model).__name__} holds {len(found)} SparseSwins, not one.{hint}")
    return found[0]


def _swins(module: nn.Module, around: tuple[nn.Module, ...]) -> Iterator[Found]:
    """Every known Swin, the modules around it from the outermost, and what swaps it."""
    # The class itself: what a subclass adds would be lost without a word.
    kind = type(module)
    integration = SWINS.get(f"{kind.__module__}.{kind.__qualname__}")
    if integration is not None:
        yield module, around, integration
        return
    for child in module.children():
        yield from _swins(child, (*around, module))


def _why_not(model: nn.Module, count: int) -> str:
    name = type(model).__name__
    if count:
        return f"{name} holds {count} Swins: sparsify the one you mean, a module inside of it."
    kinds = {type(module).__name__ for module in model.modules()}
    if any(kind.lower().startswith(("swinv2", "swintransformerv2")) for kind in kinds):
        return f"{name} {SECOND}"
    if "SwinTransformerStage" in kinds:
        return (
            f"{name} holds the stages of a timm Swin without the network around them "
            "(features_only): use sparsevit.from_timm."
        )
    return f"{name} holds no Swin that can be swapped; those of these classes can: {HOSTS}."
