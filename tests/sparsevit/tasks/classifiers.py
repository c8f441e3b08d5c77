"""Small classifiers of every library in its own files, and what each computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.oracles import import_torchvision
from tests.sparsevit.checkpoints import layouts
from tests.sparsevit.checkpoints.networks import (
    LARGE,
    SHAPE,
    randomise,
    swin_backbone,
    transformers,
)

CLASSES = 6
SIZE = LARGE


@dataclass
class Written:
    """path: what to load. logits: of the library itself, images [B, 3, H, W] to [B, classes].
    reload: a fresh network of the library, its weights from tensors by name, every one of them used;
    None where the library does not install.
    """

    path: Path
    logits: Callable[[Tensor], Tensor]
    reload: Callable[[dict[str, Tensor]], nn.Module] | None


def run(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        output = network(images)
    return output if isinstance(output, Tensor) else output.logits


def timm_network(**other) -> nn.Module:
    import_torchvision()
    import timm

    shape = SHAPE | {"img_size": SIZE, "num_classes": CLASSES} | other
    return randomise(timm.create_model("swin_tiny_patch4_window7_224", **shape))


def torchvision_network() -> nn.Module:
    models = import_torchvision().models.swin_transformer
    shape = {"patch_size": [4, 4], "window_size": [7, 7], "num_classes": CLASSES} | SHAPE
    return randomise(models.SwinTransformer(**shape))


def hugging_network(**other) -> nn.Module:
    t = transformers()
    config = t.SwinConfig(
        **(
            SHAPE
            | {"image_size": SIZE[0], "num_labels": CLASSES, "hidden_dropout_prob": 0.0}
            | other
        )
    )
    return randomise(t.SwinForImageClassification(config))


def strict(build: Callable[[], nn.Module]) -> Callable[[dict[str, Tensor]], nn.Module]:
    """What loads tensors into a new network, none missing and none too many."""

    def reload(tensors: dict[str, Tensor]) -> nn.Module:
        network = build()
        network.load_state_dict(tensors, strict=True)
        return network.eval()

    return reload


def timm(folder: Path) -> Written:
    network = timm_network()
    torch.save({"state_dict": network.state_dict()}, folder / "model.pth")
    return Written(folder / "model.pth", lambda images: run(network, images), strict(timm_network))


def original_tensors(network: nn.Module) -> dict[str, Tensor]:
    """A timm network's weights by the names of the original code (and of timm before 0.9)."""
    return layouts.buffers() | {
        key.replace("layers.1.downsample", "layers.0.downsample").replace(
            "head.fc.", "head."
        ): value
        for key, value in network.state_dict().items()
    }


def microsoft(folder: Path) -> Written:
    network = timm_network()
    file = {"model": original_tensors(network), "epoch": 3}
    torch.save(file, folder / "swin.pth")
    return Written(folder / "swin.pth", lambda images: run(network, images), None)


def torchvision(folder: Path) -> Written:
    network = torchvision_network()
    save_file(network.state_dict(), folder / "swin.safetensors")
    return Written(
        folder / "swin.safetensors",
        lambda images: run(network, images),
        strict(torchvision_network),
    )


def huggingface(folder: Path) -> Written:
    network = hugging_network()
    network.save_pretrained(folder)

    def reload(tensors: dict[str, Tensor]) -> nn.Module:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        again, loading = type(network).from_pretrained(folder, output_loading_info=True)
        assert not loading["missing_keys"]
        assert not loading["unexpected_keys"]
        return again.eval()

    return Written(folder, lambda images: run(network, images), reload)


def openmmlab(folder: Path) -> Written:
    """mmpretrain does not install here: its names, its patch merging, and the head written out."""
    backbone = layouts.with_unfold_merging(swin_backbone())
    head = randomise(nn.Linear(16, CLASSES), seed=3)
    parts = layouts.tensors(backbone, layouts.OPENMMLAB)
    last = {key: value for key, value in parts.items() if not key.startswith("norm0")}
    tensors = {f"backbone.{key}": value.clone() for key, value in last.items()}
    tensors |= {f"head.fc.{key}": value for key, value in head.state_dict().items()}
    torch.save({"state_dict": tensors, "meta": {"epoch": 3}}, folder / "epoch_3.pth")

    def logits(images: Tensor) -> Tensor:
        with torch.no_grad():
            return head(backbone(images).feature_maps[-1].mean((-2, -1)))

    return Written(folder / "epoch_3.pth", logits, None)


SOURCES = {
    source.__name__: source for source in (timm, microsoft, torchvision, huggingface, openmmlab)
}
