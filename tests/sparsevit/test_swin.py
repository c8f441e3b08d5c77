"""What the sparse backbone counts, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import SparsityConfig, kept_windows
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.coverage import layer_counts
from sparsevit.swin.stage import SwinStage
from sparsevit.swin.windows import partition
from tests.sparsevit.twins import random_model


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


def test_sparsity_that_was_not_applied_is_an_error(monkeypatch) -> None:
    model = random_model(embed_dim=4, depths=(2,), num_heads=(1,), window_size=4)
    model.set_sparsity(SparsityConfig(((0.5,),), "l2"))
    run = SwinStage.run_pair
    monkeypatch.setattr(SwinStage, "run_pair", lambda *args: run(*args[:3], 0, args[4]))
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"the config asks for \(\(8, 8\),\)"):
        model(torch.zeros(1, 3, 64, 64, dtype=torch.float64))
    assert model.executed_windows is None


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
