"""What goes wrong: its exit code, its one line, and the password that is never in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from mysql.connector.errors import ProgrammingError
from psycopg.errors import QueryCanceled
from pymysql import _auth
from pymysql.err import OperationalError

from idemtable import IdemTable
from idemtable.cli import target
from idemtable.cli.failure import failure
from idemtable.upgrade import place
from tests.support.cli import NOWHERE, SECRET, Run, keep


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


READ_ONLY = {
    "sqlite": ("mode", "ro"),
    "postgresql": ("options", "-c default_transaction_read_only=on"),
    "mysql": ("init_command", "SET SESSION TRANSACTION READ ONLY"),
}


@pytest.mark.parametrize("verb", [("purge",), ("forget", "orders", "k", "--yes")])
def test_a_database_that_takes_no_writes_is_named_and_said_to_be_one(
    verb: tuple[str, ...], url: str, idem: IdemTable, run: Run
) -> None:
    keep(idem, "k")
    writable = sa.make_url(url)
    option, value = READ_ONLY[writable.get_backend_name()]
    closed = writable.update_query_dict({option: value})
    if option == "mode":
        closed = closed.set(database=f"file:{writable.database}").update_query_dict({"uri": "true"})
    ended = run(*verb, "--url", closed.render_as_string(hide_password=False))
    assert (ended.code, ended.out) == (3, "")
    assert place(closed) in ended.err
    assert f"It takes no writes: {'take mode=ro out' if option == 'mode' else 'name the primary'}" in ended.err
    assert "that it is up" not in ended.err


@pytest.mark.parametrize("verb", [("db", "upgrade"), ("demo",)])
def test_a_file_that_cannot_be_made_is_not_said_to_be_down(verb: tuple[str, ...], tmp_path: Path, run: Run) -> None:
    ended = run(*verb, "--url", f"sqlite:///{tmp_path}/no folder/x.db")
    assert (ended.code, ended.out) == (3, "")
    assert "Check that the folder" in ended.err


def test_a_file_in_which_somebody_writes_is_not_said_to_be_down(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db?timeout=0"
    with sa.create_engine(url).connect() as holder, sa.create_engine(url).connect() as other:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(sa.exc.OperationalError) as refused:
            other.exec_driver_sql("BEGIN IMMEDIATE")
    said = failure(refused.value, sa.make_url(url))
    assert said.exit_code == 3
    assert said.message.endswith("try again")


@pytest.mark.parametrize(
    ("driver", "usual"),
    [
        ("postgresql+psycopgg", "postgresql+psycopg://"),
        ("mariadb+mariadbconnector", "mariadb+pymysql://"),
        ("mysql+cymysql", "mysql+pymysql://"),
    ],
)
@pytest.mark.parametrize("verb", [("ls",), ("db", "upgrade"), ("doctor",)])
def test_a_driver_that_nobody_knows_is_named_with_one_that_works(
    verb: tuple[str, ...], driver: str, usual: str, run: Run
) -> None:
    ended = run(*verb, "--url", f"{driver}://127.0.0.1:1/shop")
    assert ended.code in (2, 3)
    assert driver in ended.err
    assert f"Write {usual}" in ended.err


@pytest.mark.parametrize("number", [1290, 1836])
def test_a_server_that_was_made_read_only_is_not_said_to_be_down(number: int) -> None:
    refused = sa.exc.OperationalError("DELETE", {}, OperationalError(number, "it cannot execute this statement"))
    said = failure(refused, sa.make_url("mysql+pymysql://somewhere/shop"))
    assert said.exit_code == 3
    assert said.message.endswith("It takes no writes: name the primary in --url or IDEMTABLE_URL, or make it take them")


def test_what_the_driver_lacks_is_no_fault_of_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_auth, "_have_cryptography", False)
    with pytest.raises(RuntimeError) as refused:  # a password, without TLS, for a server whose cache has not got it
        _auth.sha2_rsa_encrypt(b"password", b"salt", b"key")
    said = failure(refused.value, sa.make_url("mysql+pymysql://somewhere/shop"))
    assert said.exit_code == 3
    assert said.message.startswith(
        "the driver pymysql, on the way to mysql://somewhere/shop, says: 'cryptography' package"
    )
    assert said.message.endswith(". pip install cryptography")


@pytest.mark.parametrize("verb", [("stats",), ("db", "upgrade"), ("purge",)])
def test_an_option_at_which_the_driver_stumbles_is_the_urls(verb: tuple[str, ...], run: Run) -> None:
    ended = run(*verb, "--url", "mysql+pymysql://127.0.0.1:1/shop?charset=nosuch")
    assert ended.code == 3
    assert "the driver pymysql, on the way to mysql://127.0.0.1:1/shop, says" in ended.err
    assert "should not happen" not in ended.err


def test_the_text_of_an_error_is_told_and_not_its_state() -> None:
    refused = sa.exc.ProgrammingError(
        "", {}, ProgrammingError("Access denied for user 'me'", errno=1045, sqlstate="28000")
    )
    said = failure(refused, sa.make_url("mysql+mysqlconnector://somewhere/shop"))
    assert "Access denied for user 'me'" in said.message


@pytest.mark.parametrize(
    ("url", "error", "setting"),
    [
        ("postgresql+psycopg://somewhere/shop", QueryCanceled("canceling statement"), "statement_timeout"),
        ("mysql+pymysql://somewhere/shop", OperationalError(3024, "interrupted"), "max_execution_time"),
        ("mariadb+pymysql://somewhere/shop", OperationalError(1969, "interrupted"), "max_statement_time"),
    ],
)
def test_a_statement_that_took_too_long_is_not_said_to_have_met_anybody(
    url: str, error: Exception, setting: str
) -> None:
    said = failure(sa.exc.OperationalError("SELECT", {}, error), sa.make_url(url))
    assert said.exit_code == 3
    assert said.message.endswith(f". If that was its {setting}, give this role a longer one")


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


ASTRAY = [
    f"postgresql://app:first@{SECRET}/{SECRET}@127.0.0.1:1/shop",
    f"mysql://app:first/{SECRET}@{SECRET}/{SECRET}@127.0.0.1:1/shop",
    f"postgresql://app:first@{SECRET}@127.0.0.1:1/{SECRET}",
    f"postgresql+asyncpg://app:first@{SECRET}:{SECRET}@127.0.0.1:1/shop",
    f"mariadb://app:first@{SECRET}?{SECRET}@127.0.0.1:1/shop",
    f"mysql+pymysql://app:first@{SECRET}?{SECRET}={SECRET}@127.0.0.1:1/shop",
    f"postgresql://us/er:{SECRET}@127.0.0.1:1/shop",
    f"postgresql:///app:{SECRET}@127.0.0.1:1/shop",
    f"postgres://app:first@{SECRET}/{SECRET}@127.0.0.1:1/shop",
    f"oracle://app:first@{SECRET}/{SECRET}@127.0.0.1:1/shop",
]
"""Passwords with characters that were not escaped, so that a piece of each is taken for something else."""


@pytest.mark.parametrize("verb", [("ls", "--debug"), ("db", "upgrade"), ("db", "sql"), ("demo",), ("purge", "--json")])
@pytest.mark.parametrize("url", ASTRAY)
def test_no_piece_of_a_wrongly_escaped_password_is_printed(
    verb: tuple[str, ...], url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDEMTABLE_URL", url)
    ended = run(*verb)
    assert ended.code == 2
    assert "%40" in ended.err


def test_an_at_sign_that_belongs_there_is_taken(tmp_path: Path, run: Run) -> None:
    assert run("db", "upgrade", "--url", f"sqlite:///{tmp_path}/a@b.db").code == 0
    for url in (
        "postgresql://me%40corp:p%40ss@127.0.0.1:1/shop",
        "postgresql://me@corp:pass@127.0.0.1:1/shop",
        "postgresql://127.0.0.1:1/shop?user=me@corp",
        "mysql+pymysql://app:a%2Fb@127.0.0.1:1/shop%40home",
    ):
        assert run("stats", "--url", url).code == 3


@pytest.mark.parametrize("form", ["'", "%27", " ", "%20", "a/", "%5C", "%25"])
def test_a_password_is_masked_however_it_is_written(form: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the library's own words, in a driver's and in a traceback; `run` looks for what stands behind the odd sign."""
    url = f"postgresql+psycopg://app:{form}{SECRET}@127.0.0.1:1/shop"

    def fail(*args: object, **options: object) -> None:
        parsed = sa.make_url(url)
        raise RuntimeError(
            f"{url} {parsed.password} {parsed.password!r} {parsed.render_as_string(hide_password=False)}"
        )

    monkeypatch.setattr("psycopg.connect", fail)
    assert run("stats", "--debug", "--url", url).code == 1


@pytest.mark.parametrize("option", ["password", "sslpassword", "pasword", "PWD", "token"])
def test_the_value_of_an_option_that_sounds_secret_is_masked(
    option: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError(str(options))

    monkeypatch.setattr("psycopg.connect", fail)
    again = f"&{option}={SECRET}2"
    for more in ("", again):
        assert run("stats", "--debug", "--url", f"postgresql+psycopg://127.0.0.1:1/shop?{option}={SECRET}{more}").code


@pytest.mark.parametrize(
    "args",
    [
        (f"postgresql://127.0.0.1:1/shop?password={SECRET}",),
        ("stats", f"postgresql://127.0.0.1:1/shop?password={SECRET}"),
        ("stats", f"postgresql://app:my {SECRET}@127.0.0.1/shop", "more"),
        ("ls", "--limit", f"postgresql://127.0.0.1:1/shop?password={SECRET}"),
        ("purge", "--every", NOWHERE),
        ("db", NOWHERE),
        ("db", "revision", "--directory", f"postgresql://a/shop?password={SECRET}"),
        ("db", "sql", "--dialect", NOWHERE),
    ],
)
def test_a_url_in_the_wrong_place_is_not_repeated(args: tuple[str, ...], run: Run) -> None:
    assert run(*args).code == 2


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


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (("ls",), "--tenant"),
        (("show", "orders", "k"), "--tenant"),
        (("forget", "orders", "k"), "--tenant"),
        (("tokens", "issue", "orders"), "--subject"),
    ],
)
def test_an_option_that_says_whose_and_is_empty_is_refused_in_the_words_of_the_command_line(
    args: tuple[str, ...], option: str, file_url: str, run: Run
) -> None:
    for empty in ("", " "):
        ended = run(*args, option, empty, "--url", file_url)
        assert (ended.code, ended.out) == (2, "")
        assert f"leave {option} out" in ended.err


@pytest.mark.parametrize(
    "verb", [("ls",), ("doctor",), ("verify",), ("db", "check"), ("db", "upgrade"), ("db", "downgrade"), ("db", "sql")]
)
def test_a_schema_that_a_file_cannot_have_is_refused_everywhere_and_not_sent_to_an_upgrade(
    verb: tuple[str, ...], file_url: str, run: Run
) -> None:
    ended = run(*verb, "--schema", "ops", "--url", file_url)
    assert (ended.code, ended.out) == (2, "")
    assert "Leave the schema out" in ended.err
    assert "db upgrade" not in ended.err


def test_a_script_for_a_schema_that_a_file_cannot_have_is_not_printed(run: Run) -> None:
    refused = run("db", "sql", "--dialect", "sqlite", "--schema", "ops")
    assert (refused.code, refused.out) == (2, "")
    assert "CREATE TABLE main.idemtable" in run("db", "sql", "--dialect", "sqlite", "--schema", "main").out


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


def test_an_error_of_a_driver_that_is_not_known_is_explained_like_any_other() -> None:
    lost = sa.exc.OperationalError("SELECT 1", {}, Exception("no route to the host"))
    said = failure(lost, sa.make_url("postgresql+pg8000://somewhere/shop"))
    assert "no route to the host" in said.message
