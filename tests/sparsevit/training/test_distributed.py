"""Several processes by torchrun, on CPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import sparsevit
from sparsevit.errors import ConfigError
from sparsevit.tasks.files import save_model
from sparsevit.training.distributed import process_group
from tests.sparsevit.training.group import EQUAL, RANDOM, losses
from tests.sparsevit.training.small import in_one_forward, small_model


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node=2", "-m", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_two_processes_train_as_one_does() -> None:
    done = torchrun("tests.sparsevit.training.group")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["processes"] == 2
    equal, random = found["losses"]
    assert equal == pytest.approx(losses(in_one_forward(EQUAL), 0.0, 1.0), abs=1e-5)
    # Two forwards of one process draw what the forwards of two processes draw.
    alone = replace(RANDOM, batch=RANDOM.batch // 2, accumulate=2)
    assert random == pytest.approx(losses(alone, 0.3, 0.3), abs=1e-5)


def test_the_command_line_trains_in_processes_and_one_of_them_writes(tmp_path: Path) -> None:
    source, output = tmp_path / "model.safetensors", tmp_path / "adapted.safetensors"
    save_model(small_model(), source)
    done = torchrun(
        *("sparsevit.cli", "adapt", source, "builtin:digits", "-o", output),
        *("--steps", 2, "--batch", 2, "--accumulate", 1, "--height", 112, "--width", 112),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 1
    assert sparsevit.load_model(output).adapted == "variance"
    assert sorted(p.name for p in tmp_path.iterdir()) == [output.name, source.name]


def test_a_device_that_all_processes_would_share_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="a device of its own"), process_group("cuda:0"):
        pass
