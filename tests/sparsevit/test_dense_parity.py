"""At ratio 0 the backbone is the original Swin: to rounding, for every size, depth and window."""

from __future__ import annotations

import os

import pytest
import torch

from sparsevit.errors import ConfigError
from sparsevit.swin.config import SwinConfig
from tests.sparsevit import twins
from tests.sparsevit.twins import largest_difference, random_model

PUBLISHED = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}
# Size and batch change which table rows a window reads, whatever the network's width: a thin network
# of Swin-T's depths shows every one of them. The published networks show at one size what depth and
# width change, the rounding (`make parity`: at every size and batch, too).
THIN = {"embed_dim": 16, "depths": (2, 2, 6, 2), "num_heads": (1, 2, 4, 8)}
ARCHITECTURES = {"thin": THIN} | PUBLISHED
# Padded in every stage; the last of them is smaller than a window.
PADDED = (113, 150)
SIZES = [
    (224, 224),
    (672, 672),
    (640, 640),
    (256, 704),
    (288, 792),
    (512, 1024),
    (225, 301),
    PADDED,
    (20, 24),  # smaller than one window of either size
]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-5}
SMALL = {"embed_dim": 16, "depths": (2, 4, 2), "num_heads": (1, 2, 4)}


@pytest.mark.parametrize("window_size", [7, 12])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_stage_equals_transformers(
    name: str, window_size: int, request: pytest.FixtureRequest
) -> None:
    whole = request.config.getoption("--whole-grid")
    if whole:  # compared with tolerances: it may use every core
        torch.set_num_threads(os.cpu_count() or 1)
    sizes = SIZES if whole or name == "thin" else [PADDED]
    batches = (1, 3) if whole or name in ("thin", "tiny") else (1,)
    model = random_model(window_size=window_size, **ARCHITECTURES[name])
    twin = twins.hf_backbone(model)
    for dtype, tolerance in TOLERANCE.items():
        model.to(dtype)
        twin.to(dtype)
        for height, width in sizes:
            images = torch.randn(max(batches), 3, height, width, dtype=dtype)
            with torch.inference_mode():
                theirs = twin(images).feature_maps
                for batch in batches:
                    ours = model(images[:batch])
                    difference = largest_difference(ours, [m[:batch] for m in theirs])
                    assert difference <= tolerance, (height, width, batch, dtype)


@pytest.mark.parametrize("size", [(112, 112), (112, 308), (224, 112), (128, 160)])
def test_whole_small_maps_equal_transformers_model(size: tuple[int, int]) -> None:
    """SwinModel takes a map whose shorter side fits one window whole: no shift in either direction."""
    model = random_model(small_map="whole", **SMALL)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        tokens = twins.hf_model(model)(images).last_hidden_state
        ours = model(images)[-1].flatten(2).transpose(1, 2)
    assert largest_difference([ours], [tokens]) <= 1e-10


@pytest.mark.parametrize(
    "size", [(112, 112), (112, 308), (308, 112), (96, 160), (75, 101), (60, 200), (20, 24), (7, 9)]
)
def test_small_maps_by_axis_equal_torchvision(size: tuple[int, int]) -> None:
    model = random_model(small_map="axis", **SMALL)
    # torchvision's patch embedding drops what is no whole patch.
    height, width = (side // 4 * 4 for side in size)
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    with torch.inference_mode():
        theirs = twins.torchvision_features(model, images)
        ours = twins.stage_outputs(model, images)
    assert largest_difference(ours, theirs) <= 1e-10


@pytest.mark.parametrize("small_map", ["whole", "axis"])
def test_on_square_maps_the_rules_without_shift_agree(small_map: str) -> None:
    images = torch.randn(1, 3, 112, 112, dtype=torch.float64)
    with torch.inference_mode():
        whole = random_model(small_map="whole", **SMALL)(images)
        axis = random_model(small_map="axis", **SMALL)(images)
        shift = random_model(small_map="shift", **SMALL)(images)
    assert all(torch.equal(a, b) for a, b in zip(whole, axis, strict=True))
    assert not torch.equal(whole[-1], shift[-1])


def test_timm_is_equal_where_nothing_is_padded() -> None:
    model = random_model(small_map="axis", **SMALL)
    for size in ((112, 112), (224, 336)):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.inference_mode():
            theirs = twins.timm_features(model, images)
            assert largest_difference(twins.stage_outputs(model, images), theirs) <= 1e-10


def test_timm_differs_where_it_pads_after_rolling() -> None:
    """timm rolls, then pads; Swin (original detectors, transformers, torchvision) pads, then rolls.
    The regular block before it is the same in both."""
    model = random_model(embed_dim=16, depths=(2,), num_heads=(2,), small_map="axis")
    images = torch.randn(1, 3, 160, 192, dtype=torch.float64)
    with torch.inference_mode():
        theirs = twins.timm_features(model, images)
        assert largest_difference(twins.stage_outputs(model, images), theirs) > 1e-3
        rows_first = twins.torchvision_features(model, images)
        assert largest_difference(twins.stage_outputs(model, images), rows_first) <= 1e-10


def test_absolute_positions_are_added_and_resized() -> None:
    model = random_model(absolute_positions=(14, 18), **SMALL)
    embed, images = model.patch_embed, torch.randn(1, 3, 56, 72, dtype=torch.float64)
    positions = embed.absolute_pos_embed
    with torch.no_grad():
        with_positions = embed(images)
        larger = embed(torch.zeros(1, 3, 112, 144, dtype=torch.float64))
        embed.absolute_pos_embed = None
        torch.testing.assert_close(
            with_positions, embed(images) + positions.permute(0, 2, 3, 1), rtol=0, atol=1e-12
        )
        added = larger - embed(torch.zeros(1, 3, 112, 144, dtype=torch.float64))
    expected = torch.nn.functional.interpolate(positions, (28, 36), mode="bicubic")
    torch.testing.assert_close(added, expected.permute(0, 2, 3, 1), rtol=0, atol=1e-12)


def test_only_the_output_stages_are_returned_and_normed() -> None:
    from sparsevit.swin.model import SparseSwin

    config = SwinConfig(**SMALL)
    model = SparseSwin(config, out_stages=(1, 2)).eval()
    assert [k for k in model.state_dict() if k.startswith("norm")] == [
        "norm1.weight",
        "norm1.bias",
        "norm2.weight",
        "norm2.bias",
    ]
    with torch.no_grad():
        assert [f.shape[1] for f in model(torch.randn(1, 3, 56, 56))] == [32, 64]
    for stages in ((), (2, 1), (3,), (1, 1)):
        with pytest.raises(ConfigError, match="out_stages"):
            SparseSwin(config, out_stages=stages)


@pytest.mark.parametrize(
    ("field", "value"),
    [("small_map", "window"), ("absolute_positions", [0, 3]), ("absolute_positions", [3])],
)
def test_architectures_that_cannot_be_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        SwinConfig(**{field: value})
