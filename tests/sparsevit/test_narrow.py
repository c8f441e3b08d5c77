"""Cutting channels out of a Swin and of a task model with it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from sparsevit.compare.narrow import narrow_model
from sparsevit.errors import ConfigError
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from sparsevit.swin.narrow import narrow_config, narrowed
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.bev_detection import BEVDet, Widths
from sparsevit.tasks.bevdet.view import Grid
from sparsevit.tasks.classification import ClassificationModel
from sparsevit.tasks.files import load_model, save_model
from sparsevit.tasks.semantic import SegmentationModel
from tests.oracles import import_torchvision

CONFIG = SwinConfig(embed_dim=16, depths=(2, 2, 2), num_heads=(2, 4, 8))
IMAGES = torch.randn(2, 3, 112, 168, generator=torch.Generator().manual_seed(0))


def random_swin(config: SwinConfig = CONFIG, seed: int = 0, **options) -> SparseSwin:
    """All weights at random, also those that a new model sets to one or zero."""
    torch.manual_seed(seed)
    model = SparseSwin(config, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize(
    ("share", "dim"), [(1.0, 96), (0.9, 84), (0.8, 72), (0.6, 60), (0.4, 36), (0.01, 12)]
)
def test_the_width_is_one_of_whole_heads(share: float, dim: int) -> None:
    config = narrow_config(SwinConfig(), share)
    assert config == SwinConfig(embed_dim=dim)
    assert all(d // h == dim // 3 for d, h in zip(config.dims, config.num_heads, strict=True))


def test_a_width_that_fours_do_not_divide_stays_as_it_is() -> None:
    config = SwinConfig(embed_dim=6, depths=(2,), num_heads=(3,))
    assert narrow_config(config, 1.0) == config
    assert narrow_config(config, 0.9) == config  # not wider than it was


@pytest.mark.parametrize("share", [0, -0.5, 1.2, float("nan")])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ConfigError, match="width"):
        narrow_config(SwinConfig(), share)


@pytest.mark.parametrize("rule", ["l1", "first"])
def test_the_slice_of_everything_is_the_model_itself(rule: str) -> None:
    wide = random_swin()
    made = narrowed(wide, 1.0, rule)
    assert [c.tolist() for c in made.channels] == [list(range(dim)) for dim in CONFIG.dims]
    for name, tensor in wide.state_dict().items():
        assert torch.equal(made.backbone.state_dict()[name], tensor), name


@pytest.mark.parametrize("options", [{}, {"out_stages": (1, 2)}])
def test_shapes_are_those_of_the_narrower_architecture(options) -> None:
    made = narrowed(random_swin(**options), 0.5).backbone
    assert made.config == SwinConfig(embed_dim=8, depths=(2, 2, 2), num_heads=(2, 4, 8))
    fresh = SparseSwin(made.config, **options).state_dict()
    assert {k: v.shape for k, v in made.state_dict().items()} == {
        k: v.shape for k, v in fresh.items()
    }
    with torch.no_grad():
        maps = made(IMAGES)
    assert [m.shape[1] for m in maps] == [(8, 16, 32)[stage] for stage in made.out_stages]


def test_channels_that_do_nothing_can_be_cut_without_a_trace() -> None:
    """A narrow network written into a wide one, at places drawn at random, is found again."""
    small = random_swin(SwinConfig(embed_dim=8, depths=(2, 2, 2), num_heads=(2, 4, 8)), seed=1)
    wide = SparseSwin(CONFIG).eval()
    places = hidden_in(wide, small)
    made = narrowed(wide, 0.5)
    assert [c.tolist() for c in made.channels] == [p.tolist() for p in places]
    for name, tensor in small.state_dict().items():
        assert torch.equal(made.backbone.state_dict()[name], tensor), name
    with torch.no_grad():
        for ours, theirs in zip(made.backbone(IMAGES), small(IMAGES), strict=True):
            assert torch.equal(ours, theirs)


def hidden_in(wide: SparseSwin, small: SparseSwin) -> list[torch.Tensor]:
    """Writes the weights of `small` into `wide`, all else zero; where its channels are, by stage."""
    rng = torch.Generator().manual_seed(2)

    def places(of: int, count: int) -> torch.Tensor:
        return torch.randperm(of, generator=rng)[:count].sort().values

    channels = [places(*dims) for dims in zip(wide.config.dims, small.config.dims, strict=True)]
    rows: dict[str, tuple[torch.Tensor, ...]] = {}
    for stage, here in enumerate(channels):
        heads, d = wide.config.num_heads[stage], 8
        for index in (0, 1):
            name = f"layers.{stage}.blocks.{index}."
            qk, v = (
                torch.cat([head * d + places(d, 4) for head in range(heads)]) for _ in range(2)
            )
            hidden = places(4 * heads * d, 4 * len(here))
            qkv = torch.cat([qk, heads * d + qk, 2 * heads * d + v])
            rows |= {f"{name}attn.qkv.weight": (qkv, here), f"{name}attn.qkv.bias": (qkv,)}
            rows |= {f"{name}attn.proj.weight": (here, v), f"{name}attn.proj.bias": (here,)}
            rows |= {f"{name}mlp.fc1.weight": (hidden, here), f"{name}mlp.fc1.bias": (hidden,)}
            rows |= {f"{name}mlp.fc2.weight": (here, hidden), f"{name}mlp.fc2.bias": (here,)}
            rows |= {f"{name}norm{n}.{p}": (here,) for n in (1, 2) for p in ("weight", "bias")}
        rows |= {f"norm{stage}.{p}": (here,) for p in ("weight", "bias")}
    for stage, (here, above) in enumerate(pairwise(channels)):
        quads = torch.cat([q * wide.config.dims[stage] + here for q in range(4)])
        name = f"layers.{stage}.downsample."
        rows |= {f"{name}norm.{p}": (quads,) for p in ("weight", "bias")}
        rows[f"{name}reduction.weight"] = (above, quads)
    for part in ("proj.weight", "proj.bias", "norm.weight", "norm.bias"):
        rows[f"patch_embed.{part}"] = (channels[0],)
    state = {name: torch.zeros_like(tensor) for name, tensor in wide.state_dict().items()}
    for name, tensor in small.state_dict().items():
        where = rows.get(name)
        if where is None:  # position bias, one column a head
            state[name] = tensor.clone()
        else:
            state[name][torch.meshgrid(*where, indexing="ij") if len(where) > 1 else where] = tensor
    wide.load_state_dict(state)
    return channels


def test_absolute_positions_are_cut_with_the_first_stage() -> None:
    config = SwinConfig(embed_dim=16, depths=(2,), num_heads=(2,), absolute_positions=(7, 7))
    wide = random_swin(config)
    made = narrowed(wide, 0.5)
    kept = made.channels[0]
    assert torch.equal(
        made.backbone.patch_embed.absolute_pos_embed, wide.patch_embed.absolute_pos_embed[:, kept]
    )


@pytest.mark.parametrize(("part", "column"), [(0, [1, 4, 5, 6]), (1, [1, 4, 5, 6])])
def test_queries_and_keys_keep_the_same_channels(part: int, column: list[int]) -> None:
    """Either may be what makes a channel count; values go their own way."""
    wide = random_swin()
    attention = wide.layers[0].blocks[0].attn
    weight = torch.ones(3, 2, 8, 16)  # [query key value, heads, channels of a head, C]
    weight[part, :, column] = 2
    weight[2, :, 4:] = 2
    weight += torch.arange(48).view(3, 2, 8, 1) / 1000  # tells the rows apart
    attention.qkv.weight.data = weight.view(48, 16)
    made = narrowed(wide, 0.5).backbone.layers[0].blocks[0].attn.qkv.weight
    kept = made.view(3, 2, 4, 8)[..., 0]
    for head in range(2):
        for index, rows in ((0, column), (1, column), (2, [4, 5, 6, 7])):
            assert torch.equal(kept[index, head], weight[index, head, rows, 0])


def test_the_first_channels_are_kept_where_that_is_asked_for() -> None:
    made = narrowed(random_swin(), 0.5, "first")
    assert made.channels[1].tolist() == list(range(16))
    with pytest.raises(ConfigError, match="l1, first"):
        narrowed(random_swin(), 0.5, "last")


def test_the_model_that_is_cut_stays_as_it_was() -> None:
    wide = random_swin()
    before = {k: v.clone() for k, v in wide.state_dict().items()}
    made = narrowed(wide, 0.5)
    with torch.no_grad():
        for parameter in made.backbone.parameters():
            parameter.zero_()
    assert all(torch.equal(before[k], v) for k, v in wide.state_dict().items())


def heads() -> list[TaskModel]:
    return [
        SegmentationModel(random_swin(), ["a", "b"], head_channels=4),
        ClassificationModel(random_swin(), ["a", "b", "c"]),
        BEVDet(
            random_swin(out_stages=(1, 2)),
            widths=Widths(neck=8, seen=4, encoder=(4, 4, 4), above=4, center=4),
            grid=Grid(cells=16),
        ),
    ]


@pytest.mark.parametrize("model", heads(), ids=lambda model: type(model).__name__)
def test_a_head_reads_the_channels_that_are_left(model: TaskModel, tmp_path) -> None:
    same = narrow_model(model, 1.0)
    assert all(torch.equal(same.state_dict()[k], v) for k, v in model.state_dict().items())
    made = narrow_model(model, 0.5)
    assert made.backbone.config.embed_dim == 8
    assert made.describe() == model.describe()
    assert made.adapted is None
    save_model(made, tmp_path / "narrow.safetensors")
    again = load_model(tmp_path / "narrow.safetensors")
    assert all(torch.equal(again.state_dict()[k], v) for k, v in made.state_dict().items())


def test_each_lateral_of_a_pyramid_reads_its_stage() -> None:
    model = heads()[0]
    made = narrow_model(model, 0.5)
    for stage, channels in enumerate(narrowed(model.backbone, 0.5).channels):
        wide = model.head.laterals[stage].weight
        assert torch.equal(made.head.laterals[stage].weight, wide[:, channels])
    assert torch.equal(made.head.classifier.weight, model.head.classifier.weight)


def test_two_stages_in_a_row_are_read_in_their_order() -> None:
    model = heads()[2]
    fine, coarse = narrowed(model.backbone, 0.5).channels[1:]
    made = narrow_model(model, 0.5)
    name = next(n for n, p in made.head.neck.named_parameters() if p.shape[1:2] == (48,))
    wide = dict(model.head.neck.named_parameters())[name]
    expected = torch.cat([wide[:, fine], wide[:, 32 + coarse]], 1)
    assert torch.equal(dict(made.head.neck.named_parameters())[name], expected)


def test_a_head_of_transformers_keeps_what_follows_the_stage() -> None:
    """UperNet pools the last stage and reads it before what it pooled."""
    import_torchvision()  # before transformers
    from sparsevit.tasks.upernet import UperNet

    settings = {"hidden_size": 4, "pool_scales": [1, 2], "use_auxiliary_head": False}
    model = UperNet(random_swin(), ["a", "b"], settings).eval()
    made = narrow_model(model, 0.5)
    last = narrowed(model.backbone, 0.5).channels[2]
    name = "decode_head.bottleneck.conv.weight"
    wide, narrow = (one.head.state_dict()[name] for one in (model, made))
    assert torch.equal(narrow, torch.cat([wide[:, last], wide[:, 64:]], 1))
    with torch.no_grad():
        assert made(IMAGES).shape[1] == 2


class Odd(SegmentationModel):
    """A head that reads every channel twice."""

    def __init__(self, backbone: SparseSwin, class_names, **options) -> None:
        super().__init__(backbone, class_names, **options)
        self.head.twice = nn.Linear(2 * backbone.config.dims[0] + 1, 2)
        self.head.few = nn.Linear(backbone.config.dims[0] * 3, 2)


def test_a_head_that_reads_otherwise_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"Odd cannot be made narrower: .*few.weight"):
        narrow_model(Odd(random_swin(), ["a", "b"]), 0.5)
