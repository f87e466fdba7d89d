"""The test servers keep their own promises: they start, answer, survive `kill`, and leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import redis as redis_client
from sqlalchemy import NullPool, create_engine, text

from tests.servers import (
    MissingEngine,
    RedisServer,
    Server,
    debian,
    from_environment,
    mariadb,
    mysql,
    postgresql,
    redis,
)
from tests.servers.rabbitmq import PACKAGES as RABBITMQ
from tests.servers.watchdog import alive, family
from tests.support.backends import needed, redis_server, server

Engine = Callable[..., Server]
ENGINES: dict[str, Engine] = {
    "postgresql16": partial(postgresql, 16),
    "postgresql18": partial(postgresql, 18),
    "mariadb": mariadb,
    "mariadb11.8": partial(mariadb, "11.8"),
    "mysql": mysql,
}
ROOT = Path(__file__).parents[1]
DEADLINE = 20.0


@pytest.fixture(autouse=True, scope="module")
def every_engine() -> None:
    # Those that this process has for its other tests: to start them all once more would tell nothing new.
    for name, engine in ENGINES.items():
        if not server(name).ours:
            with needed():
                engine().stop()
    redis_server()
    with needed():
        debian.find("rabbitmq-server", RABBITMQ)  # found and not started, which would take as long as all others


@pytest.fixture(params=ENGINES)
def start(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


def run(server: Server, *statements: str, database: str = "promises") -> list[int]:
    """Run the statements in one transaction; the numbers that the last one returned."""
    engine = create_engine(server.url(database), poolclass=NullPool)
    with engine.begin() as connection:
        results = [connection.execute(text(statement)) for statement in statements]
        return list(results[-1].scalars()) if results[-1].returns_rows else []


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def with_its_home(server: Server | RedisServer) -> tuple[list[int], Path]:
    assert server.process is not None
    return family(server.pid), server.process.home


@pytest.mark.parametrize("fast", [True, False])
def test_a_committed_row_survives_kill_and_stop_leaves_neither_process_nor_file(start: Engine, fast: bool) -> None:
    with start(fast=fast) as server:
        server.create_database("promises")
        run(server, "CREATE TABLE kept (number INTEGER PRIMARY KEY)")
        port, rows = server.port, [0, 1] if fast else [0]
        for number in rows:
            run(server, f"INSERT INTO kept VALUES ({number})")
            members = family(server.pid)
            server.kill()
            assert not any(alive(member) for member in members)
            server.start()
        assert server.port == port
        assert run(server, "SELECT number FROM kept ORDER BY number") == rows
        members, home = with_its_home(server)
    assert not any(alive(member) for member in members)
    assert not home.exists()


def test_extra_lines_become_settings() -> None:
    with postgresql(extra=["max_connections = 17"]) as server:
        assert run(server, "SELECT current_setting('max_connections')::int", database="postgres") == [17]
    for engine in (mariadb, mysql):
        with engine(extra=["innodb_lock_wait_timeout=3"]) as server:
            assert run(server, "SELECT @@innodb_lock_wait_timeout", database="") == [3]


def test_the_versions_are_those_that_were_asked_for() -> None:
    with mariadb("11.8") as server:
        assert run(server, "SELECT VERSION() LIKE '11.8.%MariaDB%'", database="") == [1]
    with mysql() as server:
        assert run(server, "SELECT VERSION() + 0 >= 9 AND VERSION() NOT LIKE '%MariaDB%'", database="") == [1]


@pytest.mark.parametrize("name", ENGINES)
def test_databases_come_and_go(name: str) -> None:
    for _ in range(2):
        server(name).create_database("come-and-go")
        assert run(server(name), "SELECT 1", database="come-and-go") == [1]
        server(name).drop_database("come-and-go")


@pytest.mark.parametrize("engine", [mariadb, mysql])
def test_two_servers_do_not_disturb_each_other(engine: Engine) -> None:
    with engine() as first, engine() as second:
        for server, number in ((first, 1), (second, 2)):
            server.create_database("promises")
            run(server, "CREATE TABLE own (number INTEGER)", f"INSERT INTO own VALUES ({number})")
        first.kill()
        assert run(second, "SELECT number FROM own") == [2]
        first.start()
        second.stop()
        assert run(first, "SELECT number FROM own") == [1]


def test_redis() -> None:
    with redis() as server:
        client = redis_client.Redis.from_url(server.url())
        assert client.set("key", "value", nx=True)
        server.kill()
        server.start()
        assert client.get("key") is None
        members, home = with_its_home(server)
    assert not any(alive(member) for member in members)
    assert not home.exists()


def test_a_killed_test_run_leaves_nothing() -> None:
    script = (
        "import os, signal\n"
        "from tests.servers import mariadb, mysql, postgresql, rabbitmq, redis\n"
        "from tests.servers.watchdog import family\n"
        "for server in (postgresql(), mariadb(), mysql(), redis(), rabbitmq()):\n"
        "    print(server.process.home, *family(server.pid), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    started = [line.split(" ") for line in ended.stdout.splitlines()]
    assert len(started) == 5
    assert eventually(
        lambda: not any(Path(home).exists() or any(map(alive, map(int, pids))) for home, *pids in started)
    )


def test_the_command_runs_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-m", "tests.servers", "postgresql16", "redis"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        urls = [running.stdout.readline() for _ in range(2)]
        members = family(running.pid)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=DEADLINE) == 0
    assert [url.split(":")[0] for url in urls] == ["postgresql+psycopg", "redis"]
    assert len(members) > 3
    assert eventually(lambda: not any(alive(member) for member in members))


def test_a_server_from_the_environment_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IDEMTABLE_TEST_MYSQL_URL", raising=False)
    assert from_environment("mysql") is None
    monkeypatch.setenv("IDEMTABLE_TEST_MYSQL_URL", "mysql://me:s%40cret@db.example:3307/?charset=utf8mb4")
    server = from_environment("mysql")
    assert server is not None
    assert (server.host, server.port, server.ours) == ("db.example", 3307, False)
    assert server.url("app", "asyncmy") == "mysql+asyncmy://me:s%40cret@db.example:3307/app?charset=utf8mb4"
    assert server.url("app", "mariadb+pymysql").startswith("mariadb+pymysql://me:")
    server.stop()
    for forbidden in (server.kill, server.start):
        with pytest.raises(RuntimeError, match="not ours"):
            forbidden()


def test_a_missing_engine_names_its_cure() -> None:
    with pytest.raises(MissingEngine, match="IDEMTABLE_TEST_POSTGRESQL_URL"):
        postgresql(9)


def test_an_early_death_shows_the_log() -> None:
    with ExitStack() as stack, pytest.raises(RuntimeError, match="no_such_setting"):
        stack.enter_context(mariadb(extra=["no_such_setting=1"]))
