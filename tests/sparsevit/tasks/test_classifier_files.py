"""Classifiers of other libraries: read with their heads, written back so that these read them."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sparsevit
from sparsevit.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointMismatch,
)
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.checkpoints.reading import read_tensors
from sparsevit.tasks.classification import IMAGENET, ClassificationModel
from tests.sparsevit.checkpoints.damage import spoiled
from tests.sparsevit.tasks.classifiers import (
    CLASSES,
    SIZE,
    SOURCES,
    Written,
    hugging_network,
    original_tensors,
    run,
    timm_network,
)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=SOURCES)
def written(request, tmp_path: Path) -> Written:
    return SOURCES[request.param](tmp_path)


def outputs(model: ClassificationModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images)


def test_logits_are_the_librarys_own(written: Written, images: Tensor) -> None:
    model = sparsevit.load_model(written.path)
    theirs = written.logits(images)
    assert isinstance(model, ClassificationModel)
    assert not model.training
    assert len(model.class_names) == CLASSES
    assert (outputs(model, images) - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert torch.equal(outputs(model, images).argmax(1), theirs.argmax(1))


def test_a_saved_file_alone_is_the_same_model(written: Written, tmp_path: Path) -> None:
    model = sparsevit.load_model(written.path)
    model.adapted, model.label_smoothing = "l2", 0.1
    again_at = tmp_path / "again" / "tuned.safetensors"
    sha256 = sparsevit.save_model(model, again_at)
    again = sparsevit.load_model(again_at)
    assert again.weights_sha256 == model.weights_sha256 == sha256
    assert (again.adapted, again.label_smoothing) == ("l2", 0.1)
    assert (again.preprocess, again.class_names) == (model.preprocess, model.class_names)
    assert (again.dialect, again.backbone.config) == (model.dialect, model.backbone.config)
    assert_equal_weights(model, again)
    second = tmp_path / "second.safetensors"
    sparsevit.save_model(again, second)
    assert second.read_bytes() == again_at.read_bytes()


def assert_equal_weights(one: ClassificationModel, other: ClassificationModel) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


@pytest.mark.parametrize("library", ["timm", "torchvision", "huggingface"])
def test_the_library_reads_what_is_written(library: str, images: Tensor, tmp_path: Path) -> None:
    """After a change of every weight, as training makes. (The others do not install.)"""
    written = SOURCES[library](tmp_path)
    model = sparsevit.load_model(written.path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    sparsevit.save_model(model, tmp_path / "changed.safetensors")
    network = written.reload(load_file(tmp_path / "changed.safetensors"))
    theirs = run(network, images)
    assert (theirs - written.logits(images)).abs().max() > 0.1
    assert (outputs(model, images) - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_names_and_tensors_are_the_files_own(written: Written, tmp_path: Path) -> None:
    """But for what stood around the network in a training checkpoint."""
    file = written.path / "model.safetensors" if written.path.is_dir() else written.path
    before, _ = read_tensors(file)
    sparsevit.save_model(sparsevit.load_model(written.path), tmp_path / "same.safetensors")
    after = load_file(tmp_path / "same.safetensors")
    around = {"timm": "state_dict.", "microsoft": "model.", "openmmlab": "state_dict."}
    begin = around.get(sparsevit.load_model(written.path).dialect, "")
    assert after.keys() == {key.removeprefix(begin) for key in before}
    for key, tensor in before.items():
        assert torch.equal(after[key.removeprefix(begin)], tensor), key


def test_a_subnet_is_read_back_and_runs_as_sparse(written: Written, tmp_path: Path, images) -> None:
    model = sparsevit.load_model(written.path)
    config = SparsityConfig.uniform(model.backbone.config.pairs, 0.5, "l2")
    model.set_sparsity(config)
    sparsevit.save_model(model, tmp_path / "w.safetensors")
    again = sparsevit.load_model(tmp_path / "w.safetensors")
    again.set_sparsity(config)
    assert torch.equal(outputs(again, images), outputs(model, images))
    assert again.executed_windows == model.executed_windows == ((8, 8), (2, 2, 2, 2))


def test_class_names_are_those_of_the_files(tmp_path: Path) -> None:
    labels = dict(enumerate(["cat", "dog", "crane", "crane", "owl", "eel"]))
    hugging_network(id2label=labels).save_pretrained(tmp_path)
    assert sparsevit.load_model(tmp_path).class_names == tuple(labels.values())
    folder = tmp_path / "timm"
    folder.mkdir()
    save_file(timm_network().state_dict(), folder / "model.safetensors")
    assert sparsevit.load_model(folder).class_names == ("0", "1", "2", "3", "4", "5")
    for names in (["a", "b", "c", "d", "e", "f"], {str(i): c for i, c in enumerate("abcdef")}):
        (folder / "config.json").write_text(json.dumps({"label_names": names}))
        assert sparsevit.load_model(folder).class_names == tuple("abcdef")


def test_folders_of_shards_have_a_hash_too(tmp_path: Path) -> None:
    network = hugging_network()
    network.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    network.save_pretrained(tmp_path / "whole")
    one, other = (sparsevit.load_model(tmp_path / name) for name in ("sharded", "whole"))
    assert_equal_weights(one, other)
    file = sparsevit.load_model(tmp_path / "whole" / "model.safetensors")
    assert other.weights_sha256 == file.weights_sha256 != one.weights_sha256
    assert len(one.weights_sha256) == 64


def test_the_report_says_what_was_loaded(tmp_path: Path) -> None:
    report = sparsevit.load_model(SOURCES["microsoft"](tmp_path).path).load_report
    assert (report.dialect, report.prefix) == ("microsoft", "model.")
    assert report.left.keys() == {"follows from the architecture"}
    assert any("ImageNet" in note for note in report.notes)


def test_files_that_say_nothing_are_prepared_as_for_imagenet(tmp_path: Path) -> None:
    assert sparsevit.load_model(SOURCES["torchvision"](tmp_path).path).preprocess == IMAGENET


def saved(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.fc.weight": torch.zeros(CLASSES, 24)}, "takes 24 channels, the last stage has 16"),
        ({"head.fc.bias": torch.zeros(3)}, r"head\.fc\.bias is \[3\]"),
        ({"head.fc.bias": torch.full((CLASSES,), torch.nan)}, r"head\.fc\.bias holds NaN"),
        (
            {"head.fc.weight": torch.full((CLASSES, 16), torch.inf)},
            r"head\.fc\.weight holds NaN or",
        ),
        ({"head.fc.weight": torch.zeros(CLASSES, 16).long()}, r"head\.fc\.weight is torch\.int64"),
        ({"head.fc.bias": None}, r"missing \['head\.fc\.bias'\]"),
        ({"head.fc.scale": torch.zeros(1)}, r"no place for: head\.fc\.scale"),
        ({"norm.weight": None}, r"missing \['.*norm"),
        ({"layers.1.blocks.0.mlp.fc1.weight": torch.zeros(3, 3)}, "is no|is none|needs"),
        ({"head.fc.weight": torch.zeros(0, 16), "head.fc.bias": torch.zeros(0)}, "class names"),
    ],
)
def test_heads_that_do_not_fit_are_named(tmp_path: Path, change, message: str) -> None:
    tensors = {k: v for k, v in (timm_network().state_dict() | change).items() if v is not None}
    with pytest.raises(CheckpointMismatch, match=message):
        sparsevit.load_model(saved(tmp_path, tensors))


def test_a_bare_backbone_is_told_what_to_do(tmp_path: Path) -> None:
    tensors = {k: v for k, v in timm_network().state_dict().items() if not k.startswith("head")}
    with pytest.raises(CheckpointMismatch, match=r"no head.*load_backbone.*save_model"):
        sparsevit.load_model(saved(tmp_path, tensors))


def test_another_number_of_labels_is_named(tmp_path: Path) -> None:
    hugging_network().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for labels in ({"0": "a", "1": "b"}, {str(i): i for i in range(CLASSES)}, {"x": "y"}):
        (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": labels}))
        with pytest.raises(CheckpointMismatch, match="6 classes"):
            sparsevit.load_model(tmp_path)


def test_truncated_files_are_corrupt(written: Written) -> None:
    file = written.path / "model.safetensors" if written.path.is_dir() else written.path
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointCorrupt):
        sparsevit.load_model(written.path)


def test_the_original_copies_of_training_are_not_kept(tmp_path: Path) -> None:
    tensors = original_tensors(timm_network())
    averaged = {f"model_ema.{key}": value + 1 for key, value in tensors.items()}
    file = {"model": tensors, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}} | averaged
    torch.save(file, tmp_path / "checkpoint.pth")
    sparsevit.save_model(
        sparsevit.load_model(tmp_path / "checkpoint.pth"), tmp_path / "s.safetensors"
    )
    assert load_file(tmp_path / "s.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("names", "5"),
        ("names", "{"),
        ("names", '{"head.fc.": 3}'),
        ("names", '{"head.fc.": ""}'),
        ("names", '{"other.": "head.fc."}'),
        ("head", '{"task": "classification", "class_names": ["a"], "label_smoothing": 0}'),
        ("head", '{"task": "classification", "class_names": "abcdef", "label_smoothing": 0}'),
        ("head", '{"task": "classification", "class_names": [], "label_smoothing": 2}'),
        ("head", '{"task": "semantic_segmentation"}'),
        ("head", "[" * 100_000),
        ("out_stages", "[0]"),
        ("out_stages", "[5]"),
        ("out_stages", '"last"'),
        ("architecture", '{"small_map": "never"}'),
        ("preprocess", '{"mean": ["a", 0, 0]}'),
        ("adapted", "3"),
    ],
)
def test_metadata_of_no_model_are_named_at_once(tmp_path: Path, part: str, text: str) -> None:
    model = sparsevit.load_model(SOURCES["timm"](tmp_path).path)
    path = tmp_path / "m.safetensors"
    sparsevit.save_model(model, path)
    _, metadata = read_tensors(path)
    save_file(load_file(path), path, metadata | {part: text})
    start = time.process_time()
    with pytest.raises(CheckpointMismatch):
        sparsevit.load_model(path)
    assert time.process_time() - start < 3


@pytest.mark.parametrize("name", ["nobody/no-such-swin", "gpt2/x"])
def test_a_hub_that_cannot_be_reached_is_said(monkeypatch, tmp_path: Path, name: str) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="hub does not give it"):
        sparsevit.load_model(name)


def test_a_model_in_the_hubs_cache_is_loaded_by_its_id(monkeypatch, tmp_path: Path) -> None:
    import huggingface_hub

    home = tmp_path / "models--someone--tiny-swin"
    commit = "0" * 40
    hugging_network().save_pretrained(home / "blobs")
    folder = home / "snapshots" / commit
    folder.mkdir(parents=True)
    for file in (home / "blobs").iterdir():
        (folder / file.name).symlink_to(file)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    model = sparsevit.load_model("someone/tiny-swin")
    assert_equal_weights(model, sparsevit.load_model(home / "blobs"))


def test_what_exists_is_never_fetched(monkeypatch, tmp_path: Path) -> None:
    hugging_network().save_pretrained(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert sparsevit.load_model("org/name").load_report.path == "org/name"
    with pytest.raises(CheckpointError, match="there is no checkpoint file"):
        sparsevit.load_model("org/other.safetensors")


def test_damaged_files_of_another_dialect_load_or_say_so(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    sparsevit.save_model(sparsevit.load_model(SOURCES["timm"](tmp_path).path), path)
    raw = path.read_bytes()
    refused = 0
    for seed in range(150):
        path.write_bytes(spoiled(raw, random.Random(seed)))
        try:
            sparsevit.load_model(path)
        except CheckpointError:
            refused += 1
    assert refused > 50
