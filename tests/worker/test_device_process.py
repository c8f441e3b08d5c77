"""The device process and its supervisor, with a real process on the other end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from worker.memory import device_memory_limit
from worker.supervisor import (
    DeviceProcess,
    DeviceUnavailable,
    Failed,
    Finished,
    Interrupted,
    device_command,
)

FAKE = [sys.executable, str(Path(__file__).with_name("fake_device.py"))]


def never() -> None:
    """A watch that lets the unit go on."""


def do(what: str, **payload: object) -> dict[str, object]:
    return {"kind": "test", "session": {}, "payload": {"do": what, **payload}}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake process imports the worker from this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def process() -> Iterator[DeviceProcess]:
    process = DeviceProcess(FAKE)
    yield process
    process.kill()


def test_runs_units_in_one_process_that_stays(process: DeviceProcess) -> None:
    facts = process.hello(never)
    assert facts["device"]["model"] == "Testium 3000"
    assert process.facts == facts
    first = process.run(do("echo", text="zwölf"), never, every=1)
    second = process.run(do("echo"), never, every=1)
    assert isinstance(first, Finished)
    assert first.result["payload"]["text"] == "zwölf"
    assert first.result["pid"] == second.result["pid"] == process.pid == facts["pid"]


def test_secrets_do_not_reach_it(process: DeviceProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("DATABASE_URL", "REDIS_URL", "SPARSEVIT_KEY", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY")
    wanted = ("PATH", "HOME", "PYTHONPATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LC_ALL")
    wanted += ("SPARSEVIT_GIT_VERSION", "SPARSEVIT_DATA_CACHE_MB")
    for name in (*secrets, *wanted):
        monkeypatch.setenv(name, os.environ.get(name, "C"))
    passed = set(process.hello(never)["device"]["environment"])
    assert passed.isdisjoint(secrets)
    assert passed >= set(wanted)


def test_prints_cannot_forge_or_break_an_answer(process: DeviceProcess) -> None:
    outcome = process.run(do("garbage", stdin=True), never, every=1)
    assert outcome == Finished({"forged": False, "stdin": ""})


@pytest.mark.parametrize(
    ("what", "code", "retry"),
    [
        ("unsafe", "CHECKPOINT_UNSAFE", False),
        ("memory", "DEVICE_OUT_OF_MEMORY", True),
        ("large", "DEVICE_OUT_OF_MEMORY", False),
        ("unsuited", "DEVICE_UNAVAILABLE", False),
        ("busy", "DEVICE_UNAVAILABLE", True),
        ("full", "STORAGE_FULL", True),
        ("bug", "INTERNAL", True),
        ("nan", "INTERNAL", True),
        ("segfault", "DEVICE_PROCESS_DIED", True),
        ("exit", "DEVICE_PROCESS_DIED", True),
    ],
)
def test_failures_have_a_code_and_the_next_unit_runs(
    process: DeviceProcess, what: str, code: str, retry: bool
) -> None:
    outcome = process.run(do(what), never, every=1)
    assert isinstance(outcome, Failed)
    assert (outcome.error["code"], outcome.retry) == (code, retry)
    assert outcome.error["message"]
    after = process.run(do("echo"), never, every=1)
    assert isinstance(after, Finished)
    assert after.result["forgotten"] == (code == "DEVICE_OUT_OF_MEMORY")


def test_killed_in_the_middle_is_a_failed_attempt(process: DeviceProcess) -> None:
    facts = process.hello(never)
    timer = threading.Timer(0.5, os.kill, (facts["pid"], signal.SIGKILL))
    timer.start()
    outcome = process.run(do("sleep", steps=100, seconds=0.1), never, every=1)
    assert isinstance(outcome, Failed)
    assert outcome.error["code"] == "DEVICE_PROCESS_DIED"
    assert "signal 9" in outcome.error["message"]
    assert process.facts is None
    assert process.hello(never)["pid"] != facts["pid"]


def test_an_interrupted_process_is_dead_before_the_answer(process: DeviceProcess) -> None:
    pid = process.hello(never)["pid"]
    watched: list[float] = []

    def watch() -> str | None:
        watched.append(time.monotonic())
        return "cancel" if len(watched) == 3 else None

    outcome = process.run(do("sleep", steps=100, seconds=0.1), watch, every=0.2)
    assert outcome == Interrupted("cancel")
    assert not alive(pid)
    assert all(0.15 < b - a < 1 for a, b in pairwise(watched))


def test_an_answer_is_never_taken_for_the_next_units(process: DeviceProcess) -> None:
    def broken() -> None:
        raise RuntimeError("the watch broke")

    with pytest.raises(RuntimeError):
        process.run(do("sleep", steps=10, seconds=0.1), broken, every=0.2)
    after = process.run(do("echo"), never, every=1)
    assert isinstance(after, Finished)
    assert after.result["payload"] == {"do": "echo"}


def test_a_unit_without_progress_is_stopped() -> None:
    process = DeviceProcess(FAKE, stall_seconds=2.0)
    try:
        assert process.run(do("sleep", steps=10, seconds=0.2), never, every=0.2) == Finished(
            {"slept": True}
        )
        outcome = process.run(do("sleep", steps=1, seconds=60), never, every=0.2)
        assert isinstance(outcome, Failed)
        assert outcome.error["code"] == "UNIT_STALLED"
        assert process.pid is None
    finally:
        process.kill()


def test_a_file_that_outgrows_the_memory_fails_its_unit_alone(tmp_path: Path) -> None:
    """Objects of JSON take some 30 times what they take on disk: 40 MB would hold a gigabyte."""
    table = tmp_path / "annotations.json"
    table.write_text("[" + ",".join(['{"a":[]}'] * 4_000_000) + "]")
    small = tmp_path / "small.json"
    small.write_text("[{}]")
    process = DeviceProcess(FAKE, memory_bytes=300 * 2**20)
    try:
        pid = process.hello(never)["pid"]
        outcome = process.run(do("table", file=str(table)), never, every=5)
        assert isinstance(outcome, Failed)
        assert (outcome.error["code"], outcome.retry) == ("DEVICE_OUT_OF_MEMORY", True)
        assert "300 MB" in outcome.error["message"]
        assert not alive(pid)
        after = process.run(do("table", file=str(small)), never, every=5)
        assert after == Finished({"rows": 1})
    finally:
        process.kill()


def test_the_memory_limit_is_a_share_of_the_machines_unless_it_is_given() -> None:
    assert device_memory_limit(512.0) == 512 * 2**20
    assert 0 < device_memory_limit(None) < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_device_that_cannot_be_opened_says_so() -> None:
    process = DeviceProcess([*FAKE, "refuse"])
    with pytest.raises(DeviceUnavailable) as caught:
        process.hello(never)
    assert caught.value.error == {"code": "CHECKPOINT_UNSAFE", "message": "no such device"}
    assert process.pid is None


def test_stop_lets_an_idle_process_end_by_itself(process: DeviceProcess) -> None:
    pid = process.hello(never)["pid"]
    process.stop()
    assert not alive(pid)


def test_it_ends_when_its_stdin_closes_even_in_the_middle() -> None:
    child = subprocess.Popen(FAKE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    child.stdin.write(b'{"kind":"x","payload":{"do":"sleep","steps":1,"seconds":60}}\n')
    child.stdin.close()
    assert child.wait(5) == 0


def test_the_worker_process_imports_no_torch() -> None:
    modules = (
        "worker.commands, worker.slot, worker.coordinator, worker.tasks, worker.app, worker.node"
    )
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_device_command_names_the_device() -> None:
    assert device_command("cuda:1")[1:] == ["-m", "worker.device", "--device", "cuda:1"]
