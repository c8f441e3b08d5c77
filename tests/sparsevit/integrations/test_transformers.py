"""SparseSwin as a citizen of transformers: its Auto classes, its folders, its backbone interface."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsevit
from sparsevit.errors import ConfigError
from sparsevit.integrations.sparsify import find_backbone, sparsify
from sparsevit.integrations.transformers import (
    SparseSwinBackbone,
    SparseSwinConfig,
    SparseSwinForImageClassification,
    SparseSwinModel,
    register,
)
from sparsevit.sparsity.config import SparsityConfig
from tests.sparsevit.checkpoints.networks import transformers
from tests.sparsevit.integrations import models
from tests.sparsevit.integrations.models import EVEN, PADDED

SHAPE = {"embed_dim": 8, "depths": [2, 4, 2], "num_heads": [1, 2, 4], "window_size": 5}
UNEVEN = SparsityConfig(((0.3,), (0.2, 0.6), (0.8,)), "mean_abs")

pytestmark = pytest.mark.filterwarnings("ignore:.*trains with drop rates:UserWarning")


def backbone(**other) -> SparseSwinBackbone:
    return models.ready(SparseSwinBackbone(SparseSwinConfig(**(SHAPE | other))))


def load(auto: str, folder: Path) -> nn.Module:
    """A model from a folder, through its Auto class, and not one weight made up."""
    cls = getattr(transformers(), auto)
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert not model.training
    return model


def assert_same_outputs(model: nn.Module, other: nn.Module) -> None:
    """To the last digits: weights out of a file lie elsewhere in memory than those that went in,
    and on some processors a matrix product is summed by where its operands begin."""
    pixels = models.images(EVEN)
    theirs = models.run(model, pixels)
    models.assert_equal_outputs(models.run(other, pixels), theirs, relative=1e-13)


def test_auto_classes_know_the_type() -> None:
    t = transformers()
    config = t.AutoConfig.for_model("sparse_swin", **SHAPE, out_features=["stage2"])
    assert type(config) is SparseSwinConfig
    assert type(t.AutoBackbone.from_config(config)) is SparseSwinBackbone
    assert type(t.AutoModel.from_config(config)) is SparseSwinModel
    head = t.AutoModelForImageClassification.from_config(config)
    assert type(head) is SparseSwinForImageClassification
    register()
    assert type(t.AutoBackbone.from_config(config)) is SparseSwinBackbone


@pytest.mark.parametrize("sparsity", [None, UNEVEN])
def test_a_backbone_survives_saving_and_loading(
    tmp_path: Path, sparsity: SparsityConfig | None
) -> None:
    model = backbone(
        out_features=["stage1", "stage3"], small_map="axis", absolute_positions=[20, 30]
    )
    if sparsity is not None:
        model.set_sparsity(sparsity)
    model.save_pretrained(tmp_path)
    loaded = SparseSwinBackbone.from_pretrained(tmp_path)
    assert loaded.backbone.config == model.backbone.config
    assert loaded.backbone.sparsity == model.backbone.sparsity
    assert loaded.backbone.out_stages == (0, 2)
    assert loaded.out_features == ["stage1", "stage3"]
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equal(theirs[key]) for key in ours)
    assert_same_outputs(model, loaded)
    assert loaded.executed_windows == model.executed_windows


@pytest.fixture
def reachable_hub(monkeypatch) -> None:
    """AutoBackbone asks the hub whether a repository exists before it reads even a folder."""
    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", lambda *_, **__: True)


def test_the_saved_config_is_readable(tmp_path: Path) -> None:
    model = backbone(out_indices=[2, 3])
    model.set_sparsity(UNEVEN)
    model.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["model_type"] == "sparse_swin"
    assert document["sparsity"] == [[0.3], [0.2, 0.6], [0.8]]
    assert document["score"] == "mean_abs"
    assert document["out_features"] == ["stage2", "stage3"]
    model.set_sparsity(SparsityConfig.dense((1, 2, 1), "l2"))
    assert (model.config.sparsity, model.config.score) == (None, "l2")


HOSTS = (
    (models.swin_model, "AutoModel"),
    (models.swin_backbone, "AutoBackbone"),
    (models.classifier, "AutoModelForImageClassification"),
    (models.upernet, "AutoModelForSemanticSegmentation"),
    (models.maskformer, "AutoModelForInstanceSegmentation"),
    (models.mask2former, "AutoModelForUniversalSegmentation"),
)


@pytest.mark.usefixtures("reachable_hub")
@pytest.mark.parametrize(("make", "auto"), HOSTS)
def test_a_sparsified_host_survives_saving_and_loading(
    tmp_path: Path, make: Callable[[], nn.Module], auto: str
) -> None:
    host = sparsify(make())
    pairs = find_backbone(host).config.pairs
    sparsity = SparsityConfig.uniform(pairs, 0.6, "l2")
    find_backbone(host).set_sparsity(sparsity)
    host.save_pretrained(tmp_path)
    loaded = load(auto, tmp_path)
    assert find_backbone(loaded).sparsity == sparsity
    ours, theirs = loaded.state_dict(), host.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equal(theirs[key]) for key in ours)
    assert_same_outputs(host, loaded)
    assert find_backbone(loaded).executed_windows == find_backbone(host).executed_windows
    # Loaded, it is as alive as before: what is set now is what the next save writes.
    find_backbone(loaded).set_sparsity(SparsityConfig.dense(pairs))
    loaded.save_pretrained(tmp_path / "dense")
    assert find_backbone(load(auto, tmp_path / "dense")).sparsity.is_dense


def test_mask2former_is_built_on_our_config_and_survives(tmp_path: Path) -> None:
    t = transformers()
    sparse = SparseSwinConfig(
        embed_dim=8,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 4, 4],
        out_features=[*models.STAGES, "stage4"],
        sparsity=[[0.5], [0.5], [0.5], [0.5]],
    )
    model = t.Mask2FormerForUniversalSegmentation(models.mask2former_config(sparse))
    model = models.ready(model)
    model.save_pretrained(tmp_path)
    loaded = load("AutoModelForUniversalSegmentation", tmp_path)
    assert type(loaded.config.backbone_config) is SparseSwinConfig
    assert_same_outputs(model, loaded)
    assert find_backbone(loaded).executed_windows == ((32, 32), (8, 8), (2, 2), (1, 1))


def test_labels_and_names_stay_with_a_classifier(tmp_path: Path) -> None:
    names = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    host = models.classifier(num_labels=2, **names)
    host.save_pretrained(tmp_path / "dense")
    host = sparsify(load("AutoModelForImageClassification", tmp_path / "dense"))
    assert host.config.name_or_path == str(tmp_path / "dense")
    assert host.config.id2label == names["id2label"]
    host.save_pretrained(tmp_path / "sparse")
    loaded = load("AutoModelForImageClassification", tmp_path / "sparse")
    assert loaded.config.id2label == names["id2label"]
    assert loaded.config.label2id == names["label2id"]


def test_missing_weights_are_initialised(tmp_path: Path) -> None:
    """from_pretrained builds models without memory: what a file lacks must still get values."""
    model = backbone(absolute_positions=[20, 20])
    table = "backbone.layers.1.blocks.3.attn.relative_position_bias_table"
    lacking = (table, "backbone.patch_embed.absolute_pos_embed", "backbone.norm2.weight")
    state = {key: t for key, t in model.state_dict().items() if key not in lacking}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded, info = SparseSwinBackbone.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == set(lacking)
    made = loaded.state_dict()
    assert 0.01 < made[lacking[0]].std() < 0.03
    assert 0.01 < made[lacking[1]].std() < 0.03
    assert (made[lacking[2]] == 1).all()


@pytest.mark.parametrize("size", [EVEN, PADDED])
def test_the_interface_is_that_of_swin_backbone(size: tuple[int, int]) -> None:
    theirs = models.swin_backbone(out_features=["stage2", "stage3"])
    ours = sparsify(models.swin_backbone(out_features=["stage2", "stage3"]))
    assert isinstance(ours, SparseSwinBackbone)
    assert ours.channels == theirs.channels == [16, 32]
    assert ours.out_feature_channels == theirs.out_feature_channels
    assert (ours.out_features, ours.out_indices) == (theirs.out_features, theirs.out_indices)
    pixels = models.images(size)
    with torch.no_grad():
        got = ours.forward_with_filtered_kwargs(
            pixels, output_hidden_states=True, output_attentions=False
        )
        expected = theirs(pixels, output_hidden_states=True)
        plain = ours(pixels)
        as_tuple = ours(pixels, return_dict=False)
    assert plain.hidden_states is None
    assert len(got.hidden_states) == len(expected.hidden_states) == 4
    pairs = zip(
        (*got.feature_maps, *got.hidden_states),
        (*expected.feature_maps, *expected.hidden_states),
        strict=True,
    )
    for mine, its in pairs:
        assert mine.shape == its.shape
        assert (mine - its).abs().max() <= 1e-10 * its.abs().max()
    assert all(a.equal(b) for a, b in zip(as_tuple[0], plain.feature_maps, strict=True))
    assert all(features.is_contiguous() for features in plain.feature_maps)


def test_hidden_states_are_not_kept_for_a_later_forward() -> None:
    ours = backbone()
    pixels = models.images(EVEN)
    ours(pixels, output_hidden_states=True)
    assert ours(pixels).hidden_states is None
    assert ours.backbone.raw is None


def test_what_it_cannot_give_is_said() -> None:
    pixels = models.images(EVEN)
    for model in (backbone(), sparsify(models.swin_model()), sparsify(models.classifier())):
        with pytest.raises(ConfigError, match="no attention maps"):
            model(pixels, output_attentions=True)
    for model in (sparsify(models.swin_model()), sparsify(models.classifier())):
        with pytest.raises(ConfigError, match="no hidden states"):
            model(pixels, output_hidden_states=True)
    with pytest.raises(ConfigError, match="cannot give `stem`"):
        backbone(out_features=["stem", "stage1"])
    with pytest.raises(ConfigError, match="no attention maps"):
        sparsify(models.upernet())(pixels, output_attentions=True)


def test_a_config_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="even number"):
        backbone(depths=[2, 3, 2])
    with pytest.raises(ConfigError, match="another architecture"):
        backbone(sparsity=[[0.5], [0.5], [0.5]])
    with pytest.raises(ConfigError, match="there is no score 'mine'"):
        backbone(sparsity=[[0.5], [0.5, 0.5], [0.5]], score="mine")


def test_a_searched_config_is_applied(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text(json.dumps(UNEVEN.to_dict()))
    model = backbone()
    with pytest.raises(ConfigError, match="has not run"):
        _ = model.executed_windows
    model.set_sparsity(sparsevit.load_config(tmp_path / "best.json"))
    assert model.backbone.sparsity == UNEVEN
    assert model.config.score == "mean_abs"
    models.run(model, models.images((80, 80)))
    assert model.executed_windows == ((11, 11), (3, 3, 1, 1), (1, 1))


def test_copies_keep_their_own_sparsity() -> None:
    """An EMA copy, or a pickled model, writes its own sparsity into its own config."""
    host = sparsify(models.upernet())
    buffer = io.BytesIO()
    torch.save(host, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(host), torch.load(buffer, weights_only=False)):
        find_backbone(twin).set_sparsity(models.half(twin))
        assert twin.config.backbone_config.sparsity == [[0.5], [0.5, 0.5], [0.5]]
        assert host.config.backbone_config.sparsity is None
        assert find_backbone(host).sparsity.is_dense
        assert models.run(twin, models.images(EVEN))["logits"].shape == (1, 5, *EVEN)
