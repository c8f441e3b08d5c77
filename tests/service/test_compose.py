"""What the commands of docker-compose.yml do, with stand-ins for the programs they start."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_password_of_redis_is_on_no_command_line(tmp_path: Path) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    command = [part.replace("$$", "$") for part in compose["services"]["redis"]["command"]]
    program = tmp_path / "redis-server"
    program.write_text('#!/bin/sh\necho "arguments: $*"\ncat\n')
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDISCLI_AUTH": "secret"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "arguments: -",
        "appendonly yes",
        'requirepass "secret"',
    ]
