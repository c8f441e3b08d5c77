"""A SparseSwin out of another library's module: the names are translated by the checkpoint dialects."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsevit.errors import ConfigError
from sparsevit.swin.checkpoints.load import backbone_from_tensors
from sparsevit.swin.checkpoints.recognise import find
from sparsevit.swin.checkpoints.translate import translate
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin

Build = Callable[[SwinConfig, Sequence[int] | None], SparseSwin]

EPS = 1e-5  # of every norm of SparseSwin
# What a Swin may be built of and still compute what SparseSwin does. Exact types: a quantised, an
# adapted (LoRA) or a parametrised layer is a subclass or a namesake of the plain one.
PLAIN_LAYERS = (
    nn.Linear,
    nn.Conv2d,
    nn.GELU,
    nn.Dropout,
    nn.Identity,
    nn.Softmax,
    nn.AdaptiveAvgPool1d,
)
LIBRARY_LAYERS = {
    "transformers": (
        "GELUActivation",
        "SwinDropPath",
        "SwinRelativePositionBias",
        "MaskFormerDropPath",
    ),
    "timm": ("DropPath",),
    "torchvision": ("Permute", "StochasticDepth"),
}
HEAD = ("avgpool", "flatten", "head")  # of timm's and torchvision's classifiers
SECOND_BLOCKS = ("SwinTransformerV2Block", "SwinTransformerBlockV2")
SECOND = "is a Swin V2, whose attention and norms SparseSwin does not compute."
DROP_RATES = ("p", "drop_prob", "attention_dropout", "dropout")


def to_sparse_swin(
    module: nn.Module,
    *,
    small_map: str,
    out_stages: Sequence[int] | None = None,
    config: Mapping[str, Any] | None = None,
    build: Build = SparseSwin,
) -> SparseSwin:
    """A dense SparseSwin with copies of the module's weights, each of its type and on its device.

    Training mode and requires_grad are kept. Output norms that the module lacks start untrained.
    small_map, out_stages: of the result; no tensor tells them. config: what transformers knows of
    the module. build: what makes the result, where it is to be a subclass.
    Raises ConfigError for layers that SparseSwin does not compute, CheckpointMismatch for weights
    that are not those of one Swin. Warns where a drop rate is lost.
    """
    name = type(module).__name__
    _check_layers(module, name)
    tensors = module.state_dict(keep_vars=True)
    _check_values(tensors, name)
    with torch.no_grad():
        shape = backbone_from_tensors(tensors, name, small_map=small_map, config=config)
        place, _ = find(tensors, name)
        found = translate(tensors, place, name, shape.config.absolute_positions)
    with torch.device("meta"):
        swin = build(shape.config, out_stages)
    like, filled = found.own["patch_embed.proj.weight"], shape.state_dict()
    # `shape` is in single precision: it gives only what the module lacks.
    state = {
        key: found.own[key].detach().clone() if key in found.own else filled[key].to(like)
        for key in swin.state_dict()
    }
    swin.load_state_dict(state, assign=True)
    everything = [source for sources in found.sources.values() for source in sources]
    for key, parameter in swin.named_parameters():
        # A norm that the module lacks is frozen where all the rest is.
        sources = found.sources.get(key, everything)
        parameter.requires_grad_(any(tensors[source].requires_grad for source in sources))
    _warn_of_drop_rates(module, name)
    swin.load_report = shape.load_report
    return swin.train(module.training)


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules by path but those of a classifier's head: it stays, or is left."""
    return ((p, m) for p, m in module.named_modules() if p.split(".")[0] not in HEAD)


def _check_layers(module: nn.Module, name: str) -> None:
    for path, layer in _layers(module):
        if isinstance(layer, nn.LayerNorm):
            if layer.eps != EPS:
                raise ConfigError(
                    f"{name}.{path} is a LayerNorm with eps {layer.eps}; SparseSwin computes {EPS} "
                    "only."
                )
        elif next(layer.children(), None) is None and not _is_plain(layer):
            raise ConfigError(
                f"{name}.{path} is a {type(layer).__module__}.{type(layer).__name__}, which "
                "SparseSwin does not compute. Convert the unchanged float Swin: quantise, or add "
                "adapters, after it."
            )


def _is_plain(layer: nn.Module) -> bool:
    kind = type(layer)
    if kind is nn.GELU:
        return layer.approximate == "none"
    library = kind.__module__.split(".")[0]
    holder = kind in (nn.ModuleList, nn.ModuleDict, nn.Sequential)  # an empty one
    return kind in PLAIN_LAYERS or holder or kind.__name__ in LIBRARY_LAYERS.get(library, ())


def _check_values(tensors: Mapping[str, Tensor], name: str) -> None:
    if any(tensor.is_meta for tensor in tensors.values()):
        raise ConfigError(f"{name} lies on the meta device: load its weights first.")


def _warn_of_drop_rates(module: nn.Module, name: str) -> None:
    rates = [getattr(layer, rate, 0) for _, layer in _layers(module) for rate in DROP_RATES]
    most = max((r for r in rates if isinstance(r, (int, float))), default=0)
    if most > 0:
        warnings.warn(
            f"{name} trains with drop rates of up to {most:g}; SparseSwin has no dropout and no "
            "stochastic depth. Its outputs in eval mode are the same, training is less regularised.",
            UserWarning,
            stacklevel=4,
        )


def swin_blocks(model: nn.Module, library: str) -> list[nn.Module]:
    """The blocks of a library's Swin; ConfigError where there are none, or windows do not fit."""
    name = type(model).__name__
    if any(_is_of(module, library, SECOND_BLOCKS) for module in model.modules()):
        raise ConfigError(f"{name} {SECOND}")
    blocks = [m for m in model.modules() if _is_of(m, library, ("SwinTransformerBlock",))]
    if not blocks:
        raise ConfigError(f"{name} holds no blocks of the Swin of {library}.")
    windows = sorted({tuple(m.window_size) for m in model.modules() if hasattr(m, "window_size")})
    if len(windows) > 1 or windows[0][0] != windows[0][1]:
        raise ConfigError(
            f"{name} has windows of {windows}; SparseSwin has square windows of one size. (timm "
            "shrinks the windows of stages whose map is smaller: build the model at a larger "
            "img_size. swin_s3 models cannot be converted.)"
        )
    return blocks


def _is_of(module: nn.Module, library: str, names: tuple[str, ...]) -> bool:
    """Whether a class of these names of the library is the module's, or a base of it."""
    kinds = type(module).__mro__
    return any(k.__module__.startswith(f"{library}.") and k.__name__ in names for k in kinds)


class ClassifierFeatures(nn.Module):
    """images [B, 3, H, W] -> the backbone's last map, normed, channels last [B, h, w, C].

    It takes the place of a classifier's patch embedding, stages and norm at once.
    """

    def __init__(self, backbone: SparseSwin) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.backbone(images_BCHW)[-1].permute(0, 2, 3, 1)
