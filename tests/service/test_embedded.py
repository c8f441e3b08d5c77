"""The embedded servers: they keep data, survive kills, and never outlive their owner."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis as redis_client

from service.embedded.accounts import ServerAccount, folder_lock, temporary_home
from service.embedded.errors import EmbeddedError
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.processes import ChildProcess, start_on_free_port
from service.embedded.redis import EmbeddedRedis

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another user")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own death signal")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with temporary_home(tmp_path_factory.mktemp("embedded")) as folder:
        yield folder


@pytest.fixture(scope="module")
def own_postgres(home: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(home / "postgres", durable=False) as server:
        with connect(server) as connection:
            connection.execute("CREATE TABLE kept (number int)")
            connection.execute("INSERT INTO kept VALUES (7)")
        yield server


def connect(server: EmbeddedPostgres) -> psycopg.Connection:
    return psycopg.connect(server.url().replace("+psycopg", ""))


def kept(server: EmbeddedPostgres) -> int:
    with connect(server) as connection:
        row = connection.execute("SELECT number FROM kept").fetchone()
        return row[0] if row else -1


def test_postgres_keeps_data_over_a_restart_and_a_later_start_is_quick(
    own_postgres: EmbeddedPostgres,
) -> None:
    own_postgres.stop()
    began = time.monotonic()
    own_postgres.start()
    assert time.monotonic() - began < 3.0  # 0.1 s on an idle machine
    assert kept(own_postgres) == 7


def test_postgres_recovers_from_a_kill(own_postgres: EmbeddedPostgres) -> None:
    own_postgres.process.kill()
    own_postgres.stop()
    own_postgres.start()
    assert kept(own_postgres) == 7


def test_postgres_starts_where_a_stale_pid_now_names_another_program(
    own_postgres: EmbeddedPostgres,
) -> None:
    own_postgres.stop()
    stale = own_postgres.data / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{own_postgres.data}\n")
    ServerAccount.current().own(stale, 0o600)
    own_postgres.start()
    assert kept(own_postgres) == 7


def test_postgres_refuses_a_wrong_password_and_hides_the_right_one(
    own_postgres: EmbeddedPostgres, home: Path
) -> None:
    wrong = own_postgres.url().replace("+psycopg", "").replace("sparsevit:", "sparsevit:x")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    assert stat.S_IMODE((home / "postgres" / "password").stat().st_mode) == 0o600
    command_line = " ".join(psutil.Process(own_postgres.process.pid).cmdline())
    assert (home / "postgres" / "password").read_text().strip() not in command_line


@root_only
def test_root_runs_postgres_as_an_unprivileged_user(own_postgres: EmbeddedPostgres) -> None:
    account = ServerAccount.current()
    assert psutil.Process(own_postgres.process.pid).uids().effective == account.uid > 0


@root_only
def test_root_is_told_what_to_do_about_a_folder_the_servers_cannot_reach(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedError, match="SPARSEVIT_HOME"):
        EmbeddedPostgres(closed / "postgres").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700  # never opened by us
    assert not any(closed.iterdir())


@root_only
def test_root_can_hand_the_stack_to_an_ordinary_user(home: Path) -> None:
    account = ServerAccount.current()
    if not account.can_run(Path(sys.executable)):
        pytest.skip("that user cannot reach this Python")
    folder = home / "ordinary"
    folder.mkdir()
    account.own(folder, 0o700)
    program = (
        "import sys; from pathlib import Path; from service.embedded.postgres import "
        "EmbeddedPostgres\nwith EmbeddedPostgres(Path(sys.argv[1])) as s: print(s.process.pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / "postgres")],
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_redis_keeps_data_and_wants_its_password(home: Path) -> None:
    server = EmbeddedRedis(home / "redis")
    with server:
        with redis_client.Redis.from_url(server.url()) as client:
            client.set("kept", "7")
        bare = f"redis://{server.url().split('@')[1]}"
        with (
            redis_client.Redis.from_url(bare) as client,
            pytest.raises(redis_client.AuthenticationError),
        ):
            client.get("kept")
        server.process.kill()
    with server, redis_client.Redis.from_url(server.url()) as client:
        assert client.get("kept") == b"7"
    assert stat.S_IMODE((home / "redis" / "redis.conf").stat().st_mode) == 0o600


PARENT = """
import sys, time
from pathlib import Path
from service.embedded.postgres import EmbeddedPostgres
from service.embedded.redis import EmbeddedRedis
home = Path(sys.argv[1])
postgres = EmbeddedPostgres(home / "postgres", durable=False).start()
redis = EmbeddedRedis(home / "redis").start()
print(postgres.process.pid, redis.process.pid, flush=True)
time.sleep(600)
"""


@linux_only
def test_servers_die_with_a_killed_parent_and_start_again(home: Path) -> None:
    folder = home / "orphans"
    folder.mkdir()
    folder.chmod(0o711)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent:
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
    gone, alive = psutil.wait_procs(children, timeout=15)
    assert (len(gone), alive) == (2, [])
    with EmbeddedPostgres(folder / "postgres", durable=False), EmbeddedRedis(folder / "redis"):
        pass


def test_a_leftover_that_outlived_its_parent_is_ended_by_the_next_start(tmp_path: Path) -> None:
    def child() -> ChildProcess:
        return ChildProcess(
            name="sleeper",
            argv=["/bin/sleep", "600"],
            log=tmp_path / "log",
            pid_file=tmp_path / "pid",
        )

    first, second = child(), child()
    first.start()
    leftover = psutil.Process(first.pid)
    second.start()
    try:
        assert not first.alive()
        assert second.alive()
        assert not leftover.is_running() or leftover.status() == psutil.STATUS_ZOMBIE
    finally:
        second.stop()
        first.stop()
    assert not (tmp_path / "pid").exists()


def test_a_failed_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    child = ChildProcess(
        name="broken",
        argv=["/bin/sh", "-c", "echo the reason; exit 3"],
        log=tmp_path / "log",
        pid_file=tmp_path / "pid",
    )
    child.start()
    with pytest.raises(EmbeddedError, match=r"(?s)broken ended while starting.*the reason"):
        child.wait_ready(lambda: False, timeout=30)
    child.stop()


def test_a_child_that_ignores_its_stop_signal_is_killed(tmp_path: Path) -> None:
    child = ChildProcess(
        name="stubborn",
        argv=["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"],
        log=tmp_path / "log",
        pid_file=tmp_path / "pid",
        patience=0.2,
    )
    child.start()
    child.wait_ready(lambda: "ready" in (tmp_path / "log").read_text(), timeout=30)
    process = psutil.Process(child.pid)
    child.stop()
    assert not process.is_running()


def test_a_taken_port_is_tried_again_and_other_failures_are_not() -> None:
    tried: list[int] = []

    def start(port: int) -> None:
        tried.append(port)
        if len(tried) == 1:
            raise EmbeddedError("Address already in use")

    assert start_on_free_port(start) == tried[-1]
    assert len(tried) == 2
    with pytest.raises(EmbeddedError, match="no disk"):
        start_on_free_port(lambda port: (_ for _ in ()).throw(EmbeddedError("no disk")))


def test_one_folder_belongs_to_one_process(home: Path, own_postgres: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedError, match="in use by another"):
        EmbeddedPostgres(home / "postgres").start()
    assert kept(own_postgres) == 7


def test_a_temporary_home_is_emptied_before_and_removed_after(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with temporary_home(tmp_path / "demo") as folder:
        (folder / "old").mkdir()
        left = folder.exists()
    assert left
    assert not folder.exists()


def test_a_temporary_home_never_empties_a_folder_of_somebody_else(
    home: Path,
) -> None:
    foreign = home / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(EmbeddedError, match="move them away"), temporary_home(foreign):
        pass
    assert (foreign / "thesis.tex").exists()


def test_what_a_killed_run_left_under_var_tmp_goes_and_what_lives_stays(tmp_path: Path) -> None:
    parent = Path("/var/tmp")
    dead, living = (parent / f"sparsevit-{word}-{os.getpid()}" for word in ("dead", "living"))
    for folder in (dead, living):
        folder.mkdir()
    (dead / "lock").touch()
    try:
        with folder_lock(living), temporary_home(tmp_path / "wanted"):
            assert not dead.exists()
            assert living.exists()
    finally:
        (living / "lock").unlink()
        living.rmdir()
