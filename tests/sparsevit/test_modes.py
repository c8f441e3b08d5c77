"""The backbone inside torch's other ways to run a model: compiled, exported, checkpointed, parallel."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin
from tests.sparsevit.twins import largest_difference, random_model

SMALL = {"embed_dim": 16, "depths": (2, 4), "num_heads": (1, 2), "window_size": 5}
SPARSE = SparsityConfig(((0.5,), (0.3, 0.6)), "variance")


@pytest.fixture
def model() -> SparseSwin:
    model = random_model(torch.float32, **SMALL)
    model.set_sparsity(SPARSE)
    return model


def images_of(batch: int, height: int = 76, width: int = 92) -> Tensor:
    torch.manual_seed(batch)
    return torch.randn(batch, 3, height, width)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_one_graph_serves_every_size_and_config(backend: str) -> None:
    torch._dynamo.reset()
    model = random_model(torch.float32, **SMALL | {"depths": (2, 2)})  # every block takes seconds
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    some = SparsityConfig(((0.5,), (0.3,)), "variance")
    others = SparsityConfig(((0.2,), (0.8,)), "l2")
    cases = [(images_of(2), some), (images_of(2), others)]
    if backend == "aot_eager":  # the compiler proper takes a minute for each new graph
        cases += [(images_of(3, 100, 60), some), (images_of(1, 80, 80), some)]
    with torch.no_grad():
        for images, sparsity in cases:
            model.set_sparsity(sparsity)
            expected = model(images)
            model.executed_windows = None
            assert largest_difference(compiled(images), expected) <= 1e-5
            height, width = images.shape[-2:]
            assert model.executed_windows == model.kept_windows(sparsity, height, width)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_takes_any_batch(model: SparseSwin, strict: bool) -> None:
    before = [f.clone() for f in model(images_of(2))]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # strict mode tells of executed_windows, set in forward
        program = torch.export.export(
            model,
            (images_of(2),),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            strict=strict,
        )
        for batch in (1, 2, 5):
            images = images_of(batch)
            assert largest_difference(program.module()(images), model(images)) <= 1e-6
    # Nothing that tracing made is left in the tables that later calls use.
    assert largest_difference(model(images_of(2)), before) == 0


class WithRankings(nn.Module):
    """A sparse backbone that also returns the ranking of the windows of every stage and partition."""

    def __init__(self, backbone: SparseSwin) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        backbone, x, features, rankings = self.backbone, self.backbone.patch_embed(images), [], []
        for index, (stage, levels) in enumerate(
            zip(backbone.layers, backbone.sparsity.levels, strict=True)
        ):
            score = backbone.stage_score(levels)
            state = stage.enter(x, score)
            for pair, level in enumerate(levels):
                stage.run_pair(state, pair, level, score)
            x = stage.leave(state)
            rankings += state.rankings
            features += backbone.outputs(index, x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        return (*features, *rankings)


@pytest.mark.parametrize("score", ["variance", "l2", "late"])
def test_onnx_runtime_gives_the_same_features(
    model: SparseSwin, score: str, tmp_path: Path
) -> None:
    """Indices first, then values: two windows that score alike to rounding may change places."""
    import onnx
    import onnxruntime

    model.set_sparsity(SparsityConfig(SPARSE.ratios, score))
    shown, path = WithRankings(model).eval(), tmp_path / "backbone.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            shown,
            (images_of(2),),
            path,
            dynamo=True,
            opset_version=20,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert [o.version for o in onnx.load(path).opset_import if o.domain == ""] == [20]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    agreeing = 0
    for batch in (1, 2, 3):
        images = images_of(batch)
        found = [torch.from_numpy(m) for m in session.run(None, {name: images.numpy()})]
        with torch.no_grad():
            expected = shown(images)
            plain = model(images)
        maps = len(plain)
        assert all(torch.equal(a, b) for a, b in zip(plain, expected[:maps], strict=True))
        for image in range(batch):
            ours, theirs = ([m[image] for m in outputs] for outputs in (found, expected))
            if same_windows(model, ours[maps:], theirs[maps:]):
                agreeing += 1
                assert largest_difference(ours[:maps], theirs[:maps]) <= 1e-5
    assert agreeing >= 5  # of 6


def same_windows(model: SparseSwin, ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether every block pair keeps the same windows by both rankings [stage, partition][n]."""
    kept = model.executed_windows
    return all(
        set(one[:k].tolist()) == set(other[:k].tolist())
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True))
        for k in kept[i // 2][i % 2 :: 2]
    )


def test_equal_scores_keep_the_lower_window_in_onnx_too(tmp_path: Path) -> None:
    import onnxruntime

    model = random_model(torch.float32, embed_dim=4, depths=(2,), num_heads=(1,), window_size=4)
    model.set_sparsity(SparsityConfig(((0.5,),), "l2"))
    blank = torch.zeros(1, 3, 64, 64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (blank,), tmp_path / "m.onnx", dynamo=True, opset_version=20)
        expected = model(blank)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: blank.numpy()})
    assert largest_difference([torch.from_numpy(found)], expected) <= 1e-5


def test_forward_asks_nothing_of_the_host(model: SparseSwin) -> None:
    """On the meta device there are no values: a forward that looked at one would fail. That is what
    lets it be a CUDA graph."""
    features = model.to("meta")(images_of(2).to("meta"))
    assert [tuple(f.shape) for f in features] == [(2, 16, 19, 23), (2, 32, 10, 12)]
    assert model.executed_windows == model.kept_windows(SPARSE, 76, 92)


def test_checkpointed_activations_give_the_same_gradients(model: SparseSwin) -> None:
    def gradients() -> list[Tensor]:
        model.zero_grad()
        sum(f.pow(2).sum() for f in model(images_of(2))).backward()
        return [p.grad.clone() for p in model.parameters()]

    model.train()
    kept = gradients()
    calls: list[int] = []
    for stage in model.layers:
        for block in stage.blocks:
            block.register_forward_pre_hook(lambda *_: calls.append(1))
    model.set_activation_checkpointing()
    again = gradients()
    assert len(calls) == 2 * sum(model.config.depths)  # each block ran in the backward pass too
    assert all(torch.equal(a, b) for a, b in zip(again, kept, strict=True))


def test_mixed_precision_training_steps(model: SparseSwin) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(f.float().pow(2).mean() for f in model(images_of(2)))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.dtype is torch.float32


def _train_in_parallel(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    model = SparseSwin(SwinConfig(**SMALL))
    model.set_sparsity(SPARSE)
    parallel = nn.parallel.DistributedDataParallel(model)
    sum(f.pow(2).mean() for f in parallel(images_of(2)[rank : rank + 1])).backward()
    torch.save([p.grad for p in model.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_train_in_parallel, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.manual_seed(0)
    alone = SparseSwin(SwinConfig(**SMALL))
    alone.set_sparsity(SPARSE)
    for rank in (0, 1):
        (sum(f.pow(2).mean() for f in alone(images_of(2)[rank : rank + 1])) / 2).backward()
    for mine, parameter in zip(first, alone.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_replays_the_forward(model: SparseSwin) -> None:
    model.cuda()
    images = images_of(2).cuda()
    with torch.inference_mode():
        for _ in range(3):
            model(images)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            features = model(images)
        for seed in (1, 2):
            torch.manual_seed(seed)
            images.copy_(torch.randn_like(images))
            graph.replay()
            torch.cuda.synchronize()
            assert largest_difference(features, model(images)) <= 1e-5
