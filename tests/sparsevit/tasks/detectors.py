"""A small BEVDet, and its weights as BEVDet's own code stores them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sparsevit.data.preprocess import Preprocess
from sparsevit.swin.checkpoints.recognise import DIALECTS
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks.bev_detection import BEVDet, Widths
from sparsevit.tasks.bevdet.checkpoint import PARTS
from sparsevit.tasks.bevdet.view import Grid

SIZE = (32, 64)  # height, width of the input
GRID = Grid(cells=16, cell=6.4, depths=8, step=6.0)
WIDTHS = Widths(neck=16, seen=8, encoder=(16, 16, 32), above=16, center=8)
SWIN = SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 2))


def small(frame: str = "lidar", seed: int = 0) -> BEVDet:
    """In eval mode, with weights that let a signal through, and norms that are not the identity."""
    torch.manual_seed(seed)
    backbone = SparseSwin(SWIN, out_stages=(2, 3))
    preprocess = Preprocess(
        resize=SIZE, interpolation="bicubic", crop_pct=11 / 12, crop_at="bottom", channels="bgr"
    )
    model = BEVDet(backbone, widths=WIDTHS, grid=GRID, frame=frame, preprocess=preprocess)
    for module in model.head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for name, tensor in model.head.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor += 0.2 * torch.rand_like(tensor)
    for group in model.head.center.task_heads:
        group.heatmap[-1].bias.data -= 0.2  # a few of the cells are candidates
    return model.eval()


def theirs(model: BEVDet) -> dict[str, Tensor]:
    """The tensors of the model by the names and in the layout of the released code."""
    found: dict[str, Tensor] = {}
    for name, tensor in model.backbone.state_dict().items():
        pieces = (
            {name: tensor} if name.startswith("norm") else DIALECTS["openmmlab"].write(name, tensor)
        )
        found |= {f"img_backbone.{key}": piece for key, piece in pieces.items()}
    for name, tensor in model.state_dict().items():
        for ours, part in PARTS.items():
            if name.startswith(ours):
                found[part + name.removeprefix(ours)] = tensor
    grid, rows, columns = model.grid, SIZE[0] // 16, SIZE[1] // 16
    sizes = torch.tensor([grid.cell, grid.cell, 2 * grid.height])
    counts = torch.tensor([grid.cells, grid.cells, 1.0])
    depths = grid.nearest + grid.step * torch.arange(grid.depths)
    frustum = torch.zeros(grid.depths, rows, columns, 3)
    frustum[..., 2] = depths[:, None, None]
    view = {"dx": sizes, "bx": sizes * (1 - counts) / 2, "nx": counts, "frustum": frustum}
    return found | {f"img_view_transformer.{key}": value for key, value in view.items()}


def save(model: BEVDet, path: Path) -> Path:
    """As mmcv writes a training's checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": theirs(model), "meta": {"epoch": 20}}, path)
    return path
