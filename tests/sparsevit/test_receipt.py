"""Receipts and device facts; NVML is played by a fake, so that no GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import sparsevit
from sparsevit.errors import ConfigError, DeviceError
from sparsevit.latency import nvml
from sparsevit.latency import receipt as receipts
from sparsevit.latency.digest import canonical_digest
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.receipt import cpu_model, device_facts, receipt
from sparsevit.search.latency_map import map_facts, map_key

INPUT = {
    "height": 448,
    "width": 448,
    "batch": 1,
    "precision": "fp32",
    "mode": "eager",
    "threads": 2,
}
MEASUREMENT = Measurement(
    p50=4.0,
    p90=4.5,
    p99=5.0,
    interval=(3.9, 4.1),
    samples=40,
    converged=True,
    noise_floor=0.01,
    drift=0.0,
    disturbed=False,
    attempts=1,
    threads=2,
)


class FakeNvml:
    """The part of pynvml that is used; `refused` names the queries that fail, as in containers."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, refused: tuple[str, ...] = ()) -> None:
        self.refused = refused
        self.opened = 0

    def __getattr__(self, name: str):
        answers = {
            "nvmlSystemGetDriverVersion": b"570.1",
            "nvmlDeviceGetHandleByUUID": "handle",
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetClockInfo": 1980,
            "nvmlDeviceGetMaxClockInfo": 2010,
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetPowerUsage": 123_400,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4 | 0x20,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=7, memory=1),
            "nvmlDeviceGetComputeRunningProcesses": [
                SimpleNamespace(pid=os.getpid(), usedGpuMemory=1),
                SimpleNamespace(pid=4242, usedGpuMemory=1024),
            ],
        }

        def query(*_arguments):
            if name in self.refused:
                raise self.NVMLError(name)
            return answers[name]

        return query

    def nvmlInit(self) -> None:  # noqa: N802
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1


@pytest.fixture
def fake_nvml(monkeypatch):
    def play(*refused: str) -> FakeNvml:
        fake = FakeNvml(refused)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return play


def test_a_receipt_is_json_named_by_its_content():
    document = receipt("cpu", INPUT, MEASUREMENT, ((64, 64), (8, 4)))
    content = {k: v for k, v in json.loads(json.dumps(document)).items() if k != "id"}
    assert document["id"] == f"receipt_{canonical_digest(content)[:20]}"
    assert document["input"] == INPUT
    assert document["latency_ms"]["interval"] == [3.9, 4.1]
    assert document["executed_windows"] == [[64, 64], [8, 4]]
    assert document["versions"]["torch"] == str(torch.__version__)
    assert document["versions"]["sparsevit"] == sparsevit.__version__
    assert document["state"] is None
    assert document["host"]["allocator"]
    head = subprocess.run(
        ["git", "-C", str(Path(sparsevit.__file__).parents[1]), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
    )
    if head.returncode == 0:  # a source tree under git, as a clone is
        assert head.stdout.strip() in document["versions"]["git"]


def test_cpu_facts_name_model_and_machine_and_make_a_map_key():
    facts = device_facts("cpu")
    assert facts == device_facts(torch.device("cpu"))
    assert (facts["kind"], facts["model"]) == ("cpu", cpu_model())
    assert facts["uuid"].startswith("CPU-")
    described = map_facts(
        architecture={}, input=INPUT, score="l2", device=facts, versions={"torch": "2"}
    )
    assert len(map_key(described)) == 64


def test_the_cpu_model_is_read_from_cpuinfo(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A Fast CPU\n\nmodel name\t: A Fast CPU\n")
    assert cpu_model(info) == "A Fast CPU"
    assert cpu_model(tmp_path / "missing")


def test_the_machine_uuid_hides_the_id_and_does_without_one(tmp_path):
    first, second = tmp_path / "machine-id", tmp_path / "boot_id"
    first.write_text("\n")
    second.write_text("0123-secret\n")
    uuid = receipts._machine_uuid((first, second))
    assert uuid == receipts._machine_uuid((second,))
    assert "secret" not in uuid
    assert receipts._machine_uuid((tmp_path / "none",)).startswith("CPU-")


@pytest.mark.parametrize("name", ["cuda:99", "meta"])
def test_devices_that_are_not_here_are_refused(name):
    with pytest.raises(DeviceError):
        device_facts(name)


def test_gpu_state_reads_nvml_and_closes_it(fake_nvml):
    fake = fake_nvml()
    assert nvml.gpu_settings("GPU-1") == {"driver": "570.1", "power_limit_w": 700.0}
    assert nvml.gpu_state("GPU-1") == {
        "sm_clock_mhz": 1980,
        "sm_clock_max_mhz": 2010,
        "memory_clock_mhz": 1980,
        "temperature_c": 41,
        "power_w": 123.4,
        "throttle_reasons": ["power_cap", "thermal_software"],
        "utilisation_percent": 7,
        "other_processes": [{"pid": 4242, "memory_bytes": 1024}],
    }
    assert fake.opened == 0


def test_what_nvml_refuses_is_none(fake_nvml):
    fake_nvml(
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlDeviceGetEnforcedPowerLimit",
    )
    state = nvml.gpu_state("GPU-1")
    refused = ("temperature_c", "utilisation_percent", "other_processes", "throttle_reasons")
    assert [state[name] for name in refused] == [None] * 4
    assert state["sm_clock_mhz"] == 1980
    assert nvml.gpu_settings("GPU-1")["power_limit_w"] is None


def test_without_nvml_or_the_gpu_there_is_no_state(fake_nvml, monkeypatch):
    fake_nvml("nvmlDeviceGetHandleByUUID")
    assert nvml.gpu_state("GPU-1") is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.gpu_state("GPU-1") is None
    assert nvml.gpu_settings("GPU-1") == {"driver": None, "power_limit_w": None}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_facts_name_the_gpu():
    facts = device_facts("cuda")
    assert facts["model"] == torch.cuda.get_device_name()
    assert facts["uuid"].startswith("GPU-")


def test_digests_depend_on_content_alone():
    assert canonical_digest({"a": 1, "b": (1, 2)}) == canonical_digest({"b": [1, 2], "a": 1})
    with pytest.raises(ConfigError, match="JSON"):
        canonical_digest({"a": float("nan")})
