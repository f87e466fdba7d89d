"""The command line: every verb on every database, its exit codes, and what it must never print."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa

from idemtable import IdemTable
from idemtable.cli import main, target, text

SECRET = "Tr0ub4dor"
NOWHERE = f"postgresql+psycopg://someone:{SECRET}@127.0.0.1:1/shop"
COMMAND = [sys.executable, "-m", "idemtable"]


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ended]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command in this process, as a script would: no terminal anywhere."""
    for name in ("IDEMTABLE_URL", "IDEMTABLE_TABLE", "IDEMTABLE_SCHEMA"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main.main(list(args), prog_name="idemtable")
        captured = capfd.readouterr()
        assert SECRET not in captured.out + captured.err
        assert "Traceback" not in captured.err or "--debug" in args
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def url(database_url: str, run: Run) -> str:
    """A database with the table."""
    assert run("db", "upgrade", "--url", database_url).code == 0
    return database_url


@pytest.fixture
def idem(url: str) -> Iterator[IdemTable]:
    engine = sa.create_engine(url)
    yield IdemTable(engine)
    engine.dispose()


@pytest.fixture
def file_url(tmp_path: Path, run: Run) -> str:
    """A SQLite file with the table, for what does not depend on the database."""
    url = f"sqlite:///{tmp_path / 'file.db'}"
    assert run("db", "upgrade", "--url", url).code == 0
    return url


def keep(idem: IdemTable, *keys: str, scope: str = "orders", **options: Any) -> None:
    for key in keys:
        with idem.transaction(scope, key, **options) as claim:
            claim.result = {"key": key}


def expire(idem: IdemTable, count: int) -> None:
    keep(idem, *(f"old-{number}" for number in range(count)), ttl=timedelta(milliseconds=1))
    time.sleep(0.05)


# --- db -------------------------------------------------------------------------------------------------------------


def test_the_table_goes_up_and_down(database_url: str, run: Run) -> None:
    at = ("--url", database_url)
    missing = run("db", "check", *at)
    assert missing.code == 1
    assert "idemtable db upgrade" in missing.err
    assert run("db", "upgrade", *at) == Ended(0, "ran step 1\n", "")
    assert run("db", "upgrade", *at) == Ended(0, "nothing to do\n", "")
    assert run("db", "check", *at).code == 0
    assert run("db", "downgrade", "--to", "0", *at) == Ended(0, "took back step 1\n", "")
    assert run("db", "downgrade", *at) == Ended(0, "nothing to do\n", "")
    assert run("db", "check", *at).code == 1
    assert run("stats", *at).code == 3


def test_another_name_for_the_table(database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDEMTABLE_URL", database_url)
    monkeypatch.setenv("IDEMTABLE_TABLE", "other_keys")
    assert run("db", "upgrade").code == run("db", "check").code == run("stats").code == 0
    assert run("db", "check", "--table", "idemtable").code == 1


def test_sql_prints_the_script_without_connecting(run: Run) -> None:
    for dialect in ("postgresql", "mysql", "mariadb", "sqlite"):
        script = run("db", "sql", "--dialect", dialect)
        assert script.code == 0
        assert "CREATE TABLE idemtable" in script.out
    assert run("db", "sql", "--url", NOWHERE).out == run("db", "sql", "--dialect", "postgresql").out
    assert "DROP TABLE" in run("db", "sql", "--dialect", "sqlite", "--from", "1", "--to", "0").out
    assert run("db", "sql").code == 2


def test_revision_writes_into_the_applications_project(run: Run, tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    nothing = run("db", "revision", "--directory", str(tmp_path))
    assert nothing.code == 2
    assert "no Alembic project" in nothing.err
    config = Config(tmp_path / "alembic.ini")
    command.init(config, str(tmp_path / "alembic"))
    written = run("db", "revision", "--directory", str(tmp_path))
    assert written.code == 0
    file = Path(written.out.splitlines()[-1])
    assert "schema.upgrade(to=1)" in file.read_text()
    assert run("db", "revision", "--directory", str(tmp_path)).code == 2
    assert "schema.upgrade(to=1)" in run("db", "revision", "--print").out


# --- records --------------------------------------------------------------------------------------------------------


def test_records_are_listed_newest_first(idem: IdemTable, url: str, run: Run) -> None:
    keep(idem, "r-1", "r-2")
    keep(idem, "p-1", scope="payments", tenant="acme")
    listed = run("ls", "--url", url)
    assert listed.code == 0
    assert listed.out.splitlines()[0].split() == ["TENANT", "SCOPE", "KEY", "STATUS", "SIZE", "CREATED", "EXPIRES"]
    assert [line.split()[2] for line in listed.out.splitlines()[1:]] == ["p-1", "r-2", "r-1"]
    assert [line["key"] for line in run("ls", "orders", "--json", "--url", url).lines] == ["r-2", "r-1"]
    assert [line["key"] for line in run("ls", "--limit", "1", "--json", "--url", url).lines] == ["p-1"]
    assert run("ls", "nothing", "--url", url).code == 0


def test_one_record_is_shown_and_forgotten(idem: IdemTable, url: str, run: Run) -> None:
    at = ("--url", url)
    keep(idem, "r-1", payload={"amount": 2}, tenant="acme")
    assert run("show", "orders", "r-1", *at).code == 1
    shown = run("show", "orders", "r-1", "--tenant", "acme", *at)
    assert shown.code == 0
    assert re.search(r"^status +completed$", shown.out, re.M)
    (facts,) = run("show", "orders", "r-1", "--tenant", "acme", "--json", *at).lines
    assert (facts["tenant"], facts["status"], len(facts["fingerprint"])) == ("acme", "completed", 64)
    assert facts["expires_at"].endswith("+00:00")
    assert run("forget", "orders", "r-1", *at).code == 1
    assert run("forget", "orders", "r-1", "--tenant", "acme", "--yes", *at) == Ended(0, "forgotten\n", "")
    assert run("show", "orders", "r-1", "--tenant", "acme", *at).code == 1


def test_stats_count(idem: IdemTable, url: str, run: Run) -> None:
    keep(idem, "r-1", "r-2")
    expire(idem, 3)
    (stats,) = run("stats", "--json", "--url", url).lines
    assert (stats["rows"], stats["expired"]) == (5, 3)
    assert stats["by_scope"] == {"orders": 5}
    assert stats["by_status"] == {"completed": 5}
    assert re.search(r"^rows +5$", run("stats", "--url", url).out, re.M)


# --- purge ----------------------------------------------------------------------------------------------------------


def test_purge_deletes_what_has_expired(idem: IdemTable, url: str, run: Run) -> None:
    keep(idem, "r-1")
    expire(idem, 5)
    (first,) = run("purge", "--json", "--batch", "2", "--limit", "3", "--url", url).lines
    assert (first["deleted"], first["batches"], first["busy"], first["stopped"]) == (3, 2, False, False)
    assert "deleted 2 expired records in 1 batch," in run("purge", "--url", url).out
    assert idem.stats().rows == 1


def test_while_a_purge_runs_another_one_leaves(idem: IdemTable, url: str, run: Run) -> None:
    expire(idem, 2)
    inside, leave = threading.Event(), threading.Event()

    def progress(_: int) -> None:
        inside.set()
        assert leave.wait(60)

    runner = threading.Thread(target=lambda: idem.purge(batch=1, progress=progress))
    runner.start()
    try:
        assert inside.wait(60)
        busy = run("purge", "--json", "--url", url)
        assert (busy.code, busy.lines[0]["busy"], busy.lines[0]["deleted"]) == (0, True, 0)
        assert "another purge is at work" in run("purge", "--url", url).out
    finally:
        leave.set()
        runner.join(60)
    assert run("purge", "--json", "--url", url).lines[0]["busy"] is False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_keeps_running_until_a_signal(idem: IdemTable, url: str, number: signal.Signals) -> None:
    expire(idem, 1)
    command = [*COMMAND, "purge", "--every", "1s", "--json"]
    environment = os.environ | {"IDEMTABLE_URL": url}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as runner:
        assert runner.stdout is not None
        assert json.loads(runner.stdout.readline())["deleted"] == 1
        expire(idem, 2)
        while json.loads(runner.stdout.readline())["deleted"] == 0:
            pass
        runner.send_signal(number)
        assert runner.wait(30) == 0
    assert not idem.purge().busy


def test_a_signal_ends_a_purge_after_its_batch(file_url: str, run: Run) -> None:
    engine = sa.create_engine(file_url)
    idem = IdemTable(engine)
    expire(idem, 300)
    command = [*COMMAND, "purge", "--batch", "1", "--json", "--url", file_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as runner:
        while idem.stats().expired == 300:
            time.sleep(0.02)
        runner.terminate()
        out, _ = runner.communicate(timeout=30)
    report = json.loads(out)
    assert runner.returncode == 0
    assert report["stopped"] is True
    assert 0 < report["deleted"] == 300 - idem.stats().expired < 300
    assert not idem.purge().busy
    engine.dispose()


def test_every_survives_a_database_that_is_away_for_a_while(file_url: str, tmp_path: Path) -> None:
    file = tmp_path / "file.db"
    command = [*COMMAND, "purge", "--every", "1s", "--json", "--url", file_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        assert runner.stderr is not None
        runner.stdout.readline()
        file.rename(tmp_path / "away.db")
        assert "Error: " in runner.stderr.readline()
        file.unlink(missing_ok=True)
        (tmp_path / "away.db").rename(file)
        assert json.loads(runner.stdout.readline())["busy"] is False
        runner.terminate()
        assert runner.wait(30) == 0


@pytest.mark.parametrize("wrong", ["", "1", "h", "0s", "-1h", "1w", "1h ago"])
def test_a_time_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(click.BadParameter):
        text.duration(wrong)


def test_times_are_read() -> None:
    assert text.duration("1h30m") == timedelta(minutes=90)
    assert text.duration("7d") == timedelta(days=7)


# --- on a terminal --------------------------------------------------------------------------------------------------


def on_terminal(*args: str, typed: str = "") -> tuple[int, str]:
    """Run a command whose stdin and stderr are a terminal; give its exit code and all it wrote."""
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    ended = subprocess.run([*COMMAND, *args], stdin=theirs, stdout=theirs, stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 65_536):
            written += piece
    except OSError:  # how Linux says that nobody is at the other end
        pass
    finally:
        os.close(ours)
    return ended.returncode, written.decode()


def test_forget_asks_on_a_terminal(file_url: str, run: Run) -> None:
    engine = sa.create_engine(file_url)
    idem = IdemTable(engine)
    keep(idem, "r-1")
    code, written = on_terminal("forget", "orders", "r-1", "--url", file_url, typed="n\n")
    assert code == 1
    assert "run again?" in written
    assert idem.get("orders", "r-1")
    assert on_terminal("forget", "orders", "r-1", "--url", file_url, typed="y\n")[0] == 0
    assert idem.get("orders", "r-1") is None
    engine.dispose()


def test_downgrade_asks_on_a_terminal(file_url: str, run: Run) -> None:
    assert on_terminal("db", "downgrade", "--url", file_url, typed="n\n")[0] == 1
    assert run("db", "check", "--url", file_url).code == 0
    assert on_terminal("db", "downgrade", "--yes", "--url", file_url)[0] == 0


def test_purge_shows_its_progress_on_a_terminal(file_url: str) -> None:
    engine = sa.create_engine(file_url)
    expire(IdemTable(engine), 4)
    engine.dispose()
    code, written = on_terminal("purge", "--batch", "1", "--url", file_url)
    assert code == 0
    assert "4/4" in written
    assert "deleted 4 expired records in 4 batches" in written


# --- exit codes, errors, help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [("stats",), ("ls",), ("purge",), ("show", "a", "b"), ("forget", "a", "b")])
def test_without_the_table_the_cure_is_named(verb: tuple[str, ...], database_url: str, run: Run) -> None:
    if database_url.startswith("sqlite"):
        Path(str(sa.make_url(database_url).database)).touch()
    ended = run(*verb, "--url", database_url)
    assert ended.code == 3
    assert "idemtable db upgrade" in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("url", [NOWHERE, NOWHERE.replace("psycopg", "asyncpg"), NOWHERE.replace("+psycopg", "")])
@pytest.mark.parametrize("verb", [("db", "upgrade"), ("db", "check"), ("stats",), ("purge",)])
def test_a_database_that_does_not_answer(verb: tuple[str, ...], url: str, run: Run) -> None:
    ended = run(*verb, "--url", url)
    assert ended.code == 3
    assert "postgresql://127.0.0.1:1/shop" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_debug_shows_the_traceback_without_the_password(run: Run) -> None:
    ended = run("stats", "--debug", "--url", NOWHERE)
    assert ended.code == 3
    assert "Traceback" in ended.err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgres://someone:{SECRET}@127.0.0.1:1/shop", "write postgresql://"),
        (f"postgresql://someone:{SECRET}@more@127.0.0.1/shop", "%40"),
        (f"oracle://someone:{SECRET}@127.0.0.1/shop", "not supported"),
        (f"postgresql://someone:{SECRET}@127.0.0.1:port/shop", "not a database URL"),
        (SECRET, "not a database URL"),
    ],
)
def test_a_url_that_cannot_be(url: str, said: str, run: Run) -> None:
    ended = run("stats", "--url", url)
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.parametrize(
    "args",
    [
        ("stats",),
        ("nonsense",),
        ("stats", NOWHERE),
        (NOWHERE,),
        ("show", "scope"),
        ("show", "scope", " ", "--url", "sqlite://"),
        ("stats", "--table", "a b", "--url", "sqlite://"),
        ("purge", "--every", "soon", "--url", "sqlite://"),
        ("purge", "--batch", "0", "--url", "sqlite://"),
        ("db", "upgrade", "--to", "99", "--url", "sqlite://"),
    ],
)
def test_wrong_usage(args: tuple[str, ...], run: Run) -> None:
    ended = run(*args)
    assert ended.code == 2
    assert ended.out == ""


def test_reading_a_file_that_is_not_there_does_not_create_it(tmp_path: Path, run: Run) -> None:
    url = f"sqlite:///{tmp_path / 'typo.db'}"
    assert run("stats", "--url", url).code == 3
    assert run("db", "check", "--url", url).code == 1
    assert run("db", "downgrade", "--url", url).code == 0
    assert not (tmp_path / "typo.db").exists()


def test_the_password_in_the_query_is_not_printed(run: Run) -> None:
    assert run("stats", "--url", f"postgresql+psycopg://127.0.0.1:1/shop?password={SECRET}").code == 3


def test_the_url_of_an_async_driver(url: str, run: Run) -> None:
    sibling = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "asyncmy"}
    backend = sa.make_url(url).get_backend_name()
    other = sa.make_url(url).set(drivername=f"{backend}+{sibling[backend]}").render_as_string(hide_password=False)
    for verb in (("db", "check"), ("db", "upgrade"), ("stats",), ("purge",)):
        assert run(*verb, "--url", other).code == 0


def test_a_missing_driver_is_named_with_its_cure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "find_spec", lambda name: None)
    ended = run("stats", "--url", NOWHERE.replace("psycopg", "asyncpg"))
    assert ended.code == 3
    assert 'pip install "idemtable[postgresql]"' in ended.err
    monkeypatch.setitem(sys.modules, "pymysql", None)
    for url in ("mysql://root@127.0.0.1:1/shop", "mariadb+pymysql://root@127.0.0.1:1/shop"):
        ended = run("stats", "--url", url)
        assert ended.code == 3
        assert 'pip install "idemtable[mysql]"' in ended.err


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in sorted(group.commands.items()):
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


TOKENS = {"tokens", "tokens issue", "tokens ls", "tokens revoke"}
DB = {"db", "db upgrade", "db downgrade", "db sql", "db check", "db revision"}


def test_the_verbs_are_these() -> None:
    assert {" ".join(path) for path in commands(main)} == DB | TOKENS | {
        "demo",
        "forget",
        "ls",
        "purge",
        "show",
        "stats",
    }


@pytest.mark.parametrize("path", [(), *commands(main)], ids=" ".join)
def test_every_command_and_option_has_help(path: tuple[str, ...], run: Run) -> None:
    shown = run(*path, "--help")
    assert shown.code == 0
    assert "Exit codes:" in shown.out or path == ("demo",)
    command: Any = main
    for name in path:
        command = command.commands[name]
    assert command.help
    assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []


def test_it_is_a_module_too() -> None:
    shown = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("idemtable, version ")
