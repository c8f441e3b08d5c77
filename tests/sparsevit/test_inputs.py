"""What a search's model is fed: defaults, refusals, and a size that does not fit."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sparsevit.errors import ConfigError, DeviceError
from sparsevit.latency import modes
from sparsevit.search.inputs import check_precision, fill_input, open_device
from sparsevit.search.steps import Session
from sparsevit.sparsity.config import SparsityConfig
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin

CPU = torch.device("cpu")
SMALL = SwinConfig(embed_dim=16, depths=(2, 2), num_heads=(1, 2))


def test_what_is_left_out_is_filled_in():
    assert fill_input({"batch": 4, "precision": None}, (100, 200), CPU) == {
        "height": 100,
        "width": 200,
        "batch": 4,
        "precision": "fp32",
        "mode": "eager",
        "threads": torch.get_num_threads(),
    }


@pytest.mark.parametrize(
    "given",
    [
        {"batch": 0},
        {"height": -1},
        {"width": 10**6},
        {"threads": 0},
        {"batch": True},
        {"batch": 1.5},
        {"precision": "int8"},
        {"mode": "fast"},
        {"heigth": 448},
    ],
)
def test_nonsense_is_refused_by_name(given):
    with pytest.raises(ConfigError, match=next(iter(given))):
        fill_input(given, (448, 448), CPU)


def test_a_mode_the_device_lacks_says_which_to_use(monkeypatch):
    with pytest.raises(DeviceError, match="use eager"):
        fill_input({"mode": "cuda_graph"}, (448, 448), CPU)
    monkeypatch.setattr(modes.shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match=r"install g\+\+"):
        fill_input({"mode": "compiled"}, (448, 448), CPU)


def test_a_precision_the_device_lacks_says_which_to_use(monkeypatch):
    backbone = SparseSwin(SMALL)
    check_precision(backbone, "fp32")

    def lacking(*_):
        raise RuntimeError("\"LayerNormKernelImpl\" not implemented for 'Half'\nmore lines")

    monkeypatch.setattr(backbone, "forward", lacking)
    with pytest.raises(DeviceError, match=r"cannot compute in fp16.*use fp32"):
        check_precision(backbone, "fp16")


def test_a_device_that_is_not_here_is_refused():
    with pytest.raises(DeviceError, match="no device 'cuda:99'"):
        open_device("cuda:99")


def test_the_largest_size_that_fits_is_named_where_one_does_not():
    """For real: a process that may not have the memory such an input needs."""
    code = """
from sparsevit.errors import DeviceOutOfMemory
from sparsevit.latency.memory import limit_memory
from sparsevit.search.steps import Session

shape = {"height": 1024, "width": 2048, "threads": 1}
session = Session("builtin:digits", {"path": "builtin:digits", "limit": 4}, input=shape)
assert limit_memory(150 * 2**20)
try:
    session.calibrate()
except DeviceOutOfMemory as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "does not fit" in done.stdout
    height, width = map(int, done.stdout.split("that did: ")[1].split(".")[0].split("x"))
    assert 256 <= height < 1024
    assert width == 2 * height


def test_a_compiled_model_serves_every_config_with_one_compilation():
    torch.manual_seed(0)
    shape = SwinConfig(embed_dim=8, depths=(2,), num_heads=(1,))  # compiling takes seconds a block
    eager, compiled = SparseSwin(shape).eval(), SparseSwin(shape).eval()
    compiled.load_state_dict(eager.state_dict())
    modes.apply_mode(compiled, "compiled", CPU)
    images = torch.randn(1, 3, 448, 448)
    seen = []
    with torch.inference_mode():
        for ratio in (0.2, 0.5, 0.8):
            for model in (eager, compiled):
                model.set_sparsity(SparsityConfig.uniform(shape.pairs, ratio))
            for a, b in zip(compiled(images), eager(images), strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
            seen.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert seen[0] > 0
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_forward_follows_its_images():
    device = torch.device("cuda")
    model = SparseSwin(SMALL).eval().to(device)
    images = [torch.randn(1, 3, 448, 448, device=device) for _ in range(3)]
    sparsity = SparsityConfig.uniform(SMALL.pairs, 0.5)
    with torch.inference_mode():
        run = modes.over_images(model, images, "cuda_graph", lambda: model.set_sparsity(sparsity))
        for image in (*images[1:], images[0]):
            found = [feature.clone() for feature in run()]
            for a, b in zip(found, model(image), strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_session_refuses_what_its_device_cannot_do():
    with pytest.raises(DeviceError, match="cuda_graph"):
        Session("builtin:digits", "builtin:digits", input={"mode": "cuda_graph"})
