"""Another window than the file's: bias tables resized, and said."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sparsevit
from sparsevit.errors import ConfigError
from sparsevit.swin.checkpoints.load import load_backbone
from sparsevit.swin.checkpoints.save import backbone_to_tensors
from tests.oracles import import_torchvision
from tests.sparsevit.checkpoints.networks import SHAPE, assert_equal_features, pictures, randomise

TABLE = "layers.1.blocks.3.attn.relative_position_bias_table"


@pytest.fixture
def swin7(tmp_path: Path) -> Path:
    shape = sparsevit.SwinConfig(embed_dim=8, depths=(2, 4), num_heads=(1, 2))
    save_file(randomise(sparsevit.SparseSwin(shape)).state_dict(), tmp_path / "swin7.safetensors")
    return tmp_path / "swin7.safetensors"


def test_a_larger_window_resizes_every_table_and_warns(swin7: Path) -> None:
    with pytest.warns(UserWarning, match="resized bicubically from windows of 7 to 12") as seen:
        model = load_backbone(swin7, window_size=12)
    assert seen[0].filename == __file__
    assert model.config.window_size == 12
    assert any("7 to 12" in note for note in model.load_report.notes)
    before = load_backbone(swin7).state_dict()
    for key, table in model.state_dict().items():
        if "bias_table" not in key:
            assert torch.equal(table, before[key])
            continue
        old = before[key].T.reshape(1, -1, 13, 13)
        expected = torch.nn.functional.interpolate(old, (23, 23), mode="bicubic")
        assert torch.equal(table, expected.reshape(-1, 529).T)


def test_a_resized_table_keeps_its_middle_and_its_axes(swin7: Path) -> None:
    """A head that looks at row offsets only, and one at column offsets, go on to do so."""
    state = load_backbone(swin7).state_dict()
    rows, columns = torch.meshgrid(torch.arange(-6.0, 7), torch.arange(-6.0, 7), indexing="ij")
    state[TABLE] = torch.stack([rows, columns]).flatten(1).T.contiguous()
    save_file(state, swin7)
    with pytest.warns(UserWarning, match="7 to 14"):
        table = load_backbone(swin7, window_size=14).state_dict()[TABLE].T.reshape(2, 27, 27)
    by_row, by_column = table
    torch.testing.assert_close(by_row, by_row[:, :1].expand(27, 27))
    torch.testing.assert_close(by_column, by_row.T)
    torch.testing.assert_close(by_row, -by_row.flip(0))  # so the offset 0 keeps its 0
    assert (by_row[1:, 0] > by_row[:-1, 0]).all()


def test_a_resized_network_is_torchvisions_with_the_same_tables(swin7: Path) -> None:
    with pytest.warns(UserWarning, match="7 to 4"):
        model = load_backbone(swin7, window_size=4, small_map="axis")
    model.norm0.reset_parameters()
    models = import_torchvision().models.swin_transformer
    twin = models.SwinTransformer(patch_size=[4, 4], window_size=[4, 4], num_classes=2, **SHAPE)
    state = backbone_to_tensors(model, dialect="torchvision")
    assert not twin.load_state_dict(state, strict=False).unexpected_keys
    images = pictures((64, 96))
    with torch.no_grad():
        expected = twin.eval().double().norm(twin.features(images)).permute(0, 3, 1, 2)
    assert_equal_features(model, images, [expected])


def test_the_window_it_has_is_no_change(swin7: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_backbone(swin7, window_size=7)
    assert torch.equal(model.state_dict()[TABLE], load_backbone(swin7).state_dict()[TABLE])


@pytest.mark.parametrize("window", [0, -7, 65, "7", 7.5, True])
def test_windows_that_cannot_be_are_refused(swin7: Path, window) -> None:
    with pytest.raises(ConfigError, match="window_size"):
        load_backbone(swin7, window_size=window)
    with pytest.raises(ConfigError, match="small_map"):
        load_backbone(swin7, small_map="sometimes")
