"""What goes wrong: its exit code, its one line, and the password that is never in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from idemtable.cli import target
from tests.support.cli import NOWHERE, SECRET, Run


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
