"""The backbone against transformers' SwinBackbone (dense) and the slow definition (sparse)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import SparsityConfig, kept_windows
from sparsevit.sparsity.score import SCORES
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.coverage import layer_counts
from sparsevit.swin.model import SparseSwin
from sparsevit.swin.windows import partition
from tests.sparsevit import reference_swin

HF_NAMES = (
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.norm", "patch_embed.norm"),
    ("encoder.layers", "layers"),
    ("attention.relative_position_bias.relative", "attn.relative"),
    ("attention.o_proj", "attn.proj"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
)  # fmt: skip


def random_model(dtype: torch.dtype = torch.float64, **kwargs) -> SparseSwin:
    """Random weights everywhere: LayerNorm affine and bias tables too."""
    torch.manual_seed(0)
    model = SparseSwin(SwinConfig(**kwargs)).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


def transformers_twin(model: SparseSwin):
    from transformers import SwinBackbone
    from transformers import SwinConfig as HFConfig

    config = model.config
    stages = [f"stage{i + 1}" for i in range(len(config.depths))]
    twin = SwinBackbone(
        HFConfig(
            embed_dim=config.embed_dim,
            depths=list(config.depths),
            num_heads=list(config.num_heads),
            window_size=config.window_size,
            out_features=stages,
        )
    )
    twin.to(next(model.parameters()).dtype).eval()
    twin.set_attn_implementation("sdpa")  # its eager path takes the softmax in single precision
    ours = model.state_dict()
    state = {}
    for key in twin.state_dict():
        name = key.removeprefix("swin.")
        for theirs, mine in HF_NAMES:
            name = name.replace(theirs, mine)
        if "hidden_states_norms.stage" in name:
            stage = int(name.split("stage")[1][0]) - 1
            name = f"norm{stage}.{name.rsplit('.', 1)[1]}"
        if name.startswith("layernorm"):
            state[key] = twin.state_dict()[key]
            continue
        parts = name.split(".")
        if parts[-2] in ("q_proj", "k_proj", "v_proj"):
            index = ("q_proj", "k_proj", "v_proj").index(parts[-2])
            qkv = ours[name.replace(f"attention.{parts[-2]}", "attn.qkv")]
            state[key] = qkv.chunk(3)[index]
        else:
            state[key] = ours[name]
    twin.load_state_dict(state)
    return twin


@pytest.mark.parametrize(("height", "width"), [(112, 112), (96, 160), (75, 101), (20, 24)])
@pytest.mark.parametrize("batch", [1, 3])
def test_dense_features_equal_transformers(height: int, width: int, batch: int) -> None:
    model = random_model(embed_dim=16, depths=(2, 4, 2), num_heads=(1, 2, 4))
    twin = transformers_twin(model)
    images = torch.randn(batch, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        for ours, theirs in zip(model(images), twin(images).feature_maps, strict=True):
            assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()


def test_dense_features_equal_transformers_in_single_precision() -> None:
    model = random_model(torch.float32, embed_dim=16, depths=(2, 2), num_heads=(2, 4))
    twin = transformers_twin(model)
    images = torch.randn(2, 3, 90, 130)
    with torch.no_grad():
        for ours, theirs in zip(model(images), twin(images).feature_maps, strict=True):
            assert (ours - theirs).abs().max() <= 5e-5 * theirs.abs().max()


@pytest.mark.parametrize("score", sorted(SCORES))
def test_sparse_features_equal_the_definition(score: str) -> None:
    model = random_model(embed_dim=8, depths=(2, 4), num_heads=(2, 2), window_size=4)
    sparsity = SparsityConfig(((0.5,), (0.3, 0.8)), score)
    images = torch.randn(2, 3, 100, 76, dtype=torch.float64)
    model.set_sparsity(sparsity)
    with torch.no_grad():
        expected = reference_swin.features(model, images, sparsity)
        for ours, theirs in zip(model(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(9, 90),
    width=st.integers(9, 90),
    window=st.integers(2, 5),
    first=st.integers(0, 8),
    second=st.lists(st.integers(0, 8), min_size=2, max_size=2).map(sorted),
    score=st.sampled_from(["l2", "mean_abs", "variance", "late"]),
)
def test_any_size_window_and_ratio_equals_the_definition(
    height: int, width: int, window: int, first: int, second: list[int], score: str
) -> None:
    model = random_model(embed_dim=4, depths=(2, 4), num_heads=(1, 2), window_size=window)
    sparsity = SparsityConfig.from_genes((first, *second), (1, 2), score)
    images = torch.randn(1, 3, height, width, dtype=torch.float64)
    model.set_sparsity(sparsity)
    with torch.no_grad():
        expected = reference_swin.features(model, images, sparsity)
        for ours, theirs in zip(model(images), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_gradients_equal_the_definition() -> None:
    model = random_model(embed_dim=4, depths=(2, 2), num_heads=(1, 2), window_size=4)
    sparsity = SparsityConfig(((0.4,), (0.5,)), "variance")
    images = torch.randn(2, 3, 50, 40, dtype=torch.float64)
    model.set_sparsity(sparsity)
    sum(f.pow(2).sum() for f in model(images)).backward()
    ours = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    sum(f.pow(2).sum() for f in reference_swin.features(model, images, sparsity)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-8, atol=1e-8)


def test_ties_go_to_the_lower_window() -> None:
    model = random_model(embed_dim=4, depths=(2,), num_heads=(1,), window_size=4)
    model.set_sparsity(SparsityConfig(((0.5,),), "l2"))
    counts = layer_counts(model, torch.zeros(1, 3, 64, 64, dtype=torch.float64))
    # A constant image scores every window alike: the upper half of the regular windows is kept.
    regular = counts[0] >= 1
    assert regular[:32].all()
    assert counts.max() == 2
    assert counts.min() == 0


def test_executed_windows_are_counted_per_image_while_running() -> None:
    model = random_model(embed_dim=4, depths=(2, 4), num_heads=(1, 2), window_size=7)
    model.set_sparsity(SparsityConfig(((0.6,), (0.2, 0.8)), "variance"))
    seen: list[int] = []
    for stage in model.layers:
        for block in stage.blocks:
            block.register_forward_pre_hook(
                lambda _, args: seen.append(args[0].shape[0] // 49 // 3)
            )
    with torch.no_grad():
        model(torch.randn(3, 3, 224, 224, dtype=torch.float64))
    assert model.executed_windows == ((25, 25), (12, 12, 3, 3))
    assert tuple(seen) == (25, 25, 12, 12, 3, 3)
    assert model.kept_windows(model.sparsity, 224, 224) == model.executed_windows


def test_layer_counts_add_up_to_the_kept_windows() -> None:
    model = random_model(embed_dim=4, depths=(2, 4), num_heads=(1, 2), window_size=7)
    model.set_sparsity(SparsityConfig(((0.6,), (0.2, 0.8)), "variance"))
    images = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        counts = layer_counts(model, images)
        model(images)
    stages = zip(model.executed_windows, model.config.stage_windows(224, 224), strict=True)
    pixels = sum(sum(kept) * 224 * 224 / windows for kept, windows in stages)
    assert counts.shape == (2, 224, 224)
    assert counts[0].sum() == pytest.approx(pixels)


@pytest.mark.parametrize(("height", "width"), [(360, 640), (100, 448), (33, 1000), (200, 704)])
def test_layer_counts_cover_images_of_any_size(height: int, width: int) -> None:
    model = random_model(embed_dim=4, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 2), window_size=7)
    counts = layer_counts(model, torch.zeros(1, 3, height, width, dtype=torch.float64))
    assert counts.shape == (1, height, width)
    assert (counts == 8).all()


def test_kept_windows_are_integer_arithmetic() -> None:
    assert kept_windows(100, 8) == 20  # int(100 * (1 - .8)) would keep 19
    assert kept_windows(4, 8) == 1  # and int(4 * (1 - .8)) none
    assert kept_windows(1, 8) == 1


def test_partition_covers_every_token_once() -> None:
    shifts = ((3, 3), (3, 3), (3, 3), (0, 0), (0, 3))
    for (height, width), shift in zip(
        ((14, 14), (10, 17), (5, 3), (10, 17), (7, 17)), shifts, strict=True
    ):
        part = partition(height, width, 7, shift, torch.device("cpu"))
        real = part.tokens_nN[part.tokens_nN < height * width]
        assert sorted(real.tolist()) == list(range(height * width))


def test_training_after_inference_at_the_same_size_works() -> None:
    """Index tables are cached: one made in inference mode must not poison autograd."""
    model = random_model(embed_dim=4, depths=(2,), num_heads=(1,), window_size=5)
    model.set_sparsity(SparsityConfig(((0.5,),), "variance"))
    images = torch.randn(1, 3, 76, 92, dtype=torch.float64)
    with torch.inference_mode():
        model(images)
    model(images)[0].sum().backward()
    assert model.patch_embed.proj.weight.grad is not None


def test_settings_that_cannot_be_are_refused() -> None:
    model = random_model(embed_dim=4, depths=(2, 4), num_heads=(1, 2))
    with pytest.raises(ConfigError, match="another architecture"):
        model.set_sparsity(SparsityConfig(((0.5,), (0.5,))))
    with pytest.raises(ConfigError, match="no score"):
        model.set_sparsity(SparsityConfig(((0.5,), (0.5, 0.5)), "nonsense"))
    with pytest.raises(ConfigError, match="even number"):
        SwinConfig(depths=(2, 3), num_heads=(1, 2), embed_dim=4)
    with pytest.raises(ConfigError, match="heads"):
        SwinConfig(depths=(2,), num_heads=(5,), embed_dim=4)
