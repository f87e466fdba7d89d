"""A run on each database: every promise is kept, each line says what it saw, and nothing is left behind."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa

from idemtable import IdemTable, SchemaError, verify
from idemtable.dialects.catalogue import sqlite as catalogue
from idemtable.verify.ground import Ground
from tests.cli.test_privileges import Roles, roles  # noqa: F401 - a fixture
from tests.servers import pgbouncer
from tests.support.backends import needed, server
from tests.support.cli import COMMAND, NOWHERE, Run
from tests.support.crowd import until
from tests.verify.conftest import staged, tables, threads

CHECKS = [
    "transactions", "session", "call", "herd", "rollback", "expiry", "deadlocks", "kills", "interleavings", "collations",
    "clock",
]  # fmt: skip
QUICK = ("--seconds", "1", "--callers", "4")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def url(database_url: str) -> str:
    if database_url.startswith("sqlite"):
        Path(str(sa.make_url(database_url).database)).touch()
    return database_url


def connections(url: str) -> int:
    """How many connections there are to a database, but for the one that asks."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    name, kind = engine.url.database, engine.dialect.name
    with engine.connect() as connection:
        if kind == "postgresql":
            sql = f"SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = '{name}'"
        else:
            sql = f"SELECT count(*) - 1 FROM information_schema.processlist WHERE db = '{name}'"
        return int(connection.scalar(sa.text(sql)))


def nothing_is_left(url: str) -> None:
    assert tables(url) == []
    assert threads() == []
    if not url.startswith("sqlite"):
        until(lambda: connections(url) == 0, "connections are left")


# --- all of it --------------------------------------------------------------------------------------------------------


def test_every_promise_is_kept_and_each_line_says_what_was_seen(url: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    ended = run("verify", "--url", url, "--json", "--seed", "7", "--report", str(file), *QUICK)
    *checks, end = ended.lines
    assert ended.code == 0, ended.out
    assert [check["check"] for check in checks] == CHECKS
    for check in checks:
        assert (check["kept"], check["broken"], check["left_out"]) == (True, {}, []), check
        assert check["tried"]
        assert check["seen"]
        assert check["times"] or (check["check"] == "session" and url.startswith("sqlite"))
    hit, arrived = map(int, re.findall(r"\d+", checks[CHECKS.index("kills")]["seen"])[:2])
    assert hit >= 2
    assert 0 < arrived < hit, "COMMIT has arrived in none, or in all"
    assert end["kept"] is True
    assert (end["seed"], end["left_behind"]) == (7, [])
    drawn(file.read_text(encoding="utf-8"), set(CHECKS[2:9]))
    nothing_is_left(url)


def drawn(page: str, checks: set[str]) -> None:
    """Check that a page is whole by itself, and has a picture of a race of each check."""
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))
    assert not re.search(r"\b(?:src|href)=|url\(|@import|<script", page)
    heading, pictures = "", dict.fromkeys(checks, 0)
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        if name == "h2":
            heading = str(element.text)
        elif element.tag == f"{SVG}svg":
            pictures[heading] += 1
            assert element.findall(f"{SVG}rect"), heading
            assert len(element.findall(f"{SVG}line[@class='lane']")) >= 1
    assert all(pictures.values()), pictures


def test_people_get_the_seed_a_line_for_each_check_and_the_verdict(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch)
    (tmp_path / "file.db").touch()
    ended = run("verify", "--url", f"sqlite:///{tmp_path / 'file.db'}", *QUICK)
    assert ended.code == 0
    first, *lines = ended.out.splitlines()
    assert re.search(r"idemtable_verify in sqlite:///.*; seed \d+$", first)
    assert [line.split()[:2] for line in lines if re.match("kept|BROKEN", line)] == [["kept", name] for name in CHECKS]
    assert lines[-1].startswith("every promise was kept")


# --- wrong modes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["postgresql18", "mariadb"])
def test_autocommit_is_a_broken_promise_and_nothing_else_is_tried(where: str) -> None:
    report = verify.run(made(where), seconds=1, connect_args={"autocommit": True})
    assert [check.name for check in report.checks] == CHECKS[:3]
    assert not report.kept
    assert "AUTOCOMMIT" in " ".join(report.why)


def made(where: str) -> str:
    """A database of its own on a server, dropped with the server."""
    name = f"t_{uuid4().hex[:16]}"
    server(where).create_database(name)
    return server(where).url(name)


SLOW = {
    "collations": "traps.collations",
    "clock": "traps.clock",
    "herd": "herds.herd",
    "rollback": "herds.rollback",
    "expiry": "herds.expiry",
    "deadlocks": "storm.deadlocks",
    "kills": "kills.kills",
    "interleavings": "interleavings.interleavings",
}


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make only these of the checks that take their time."""
    for name, place in SLOW.items():
        if name not in names:
            nothing = verify.Check(name, "nothing")
            monkeypatch.setattr(f"idemtable.verify.{place}", lambda *_, nothing=nothing: nothing)


@pytest.mark.parametrize("where", ["mariadb", "mysql"])
def test_a_server_that_makes_tables_without_rollback_is_found(
    where: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch)
    url = f"{made(where)}&init_command=SET%20default_storage_engine%3DMyISAM"
    ended = run("verify", "--url", url, *QUICK)
    assert ended.code == 1
    assert "a row stayed in a table after its INSERT was rolled back" in ended.out
    assert "default_storage_engine=InnoDB" in ended.out
    assert tables(url) == []


def test_a_character_set_that_has_not_all_characters_is_found() -> None:
    with staged(made("mariadb").replace("utf8mb4", "latin1")) as stage:
        check = verify.traps.collations(stage)
    assert any("a key was read back otherwise" in text for text in check.broken)
    assert any("utf8mb4" in why for why in check.why)


def test_a_file_on_a_network_is_found(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    monkeypatch.setattr(catalogue, "network", lambda name: "nfs4")
    (tmp_path / "file.db").touch()
    ended = run("verify", "--url", f"sqlite:///{tmp_path / 'file.db'}", *QUICK)
    assert ended.code == 1
    assert "locks keep nobody out" in ended.out
    assert "Put it on a local disk" in ended.out


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_loses_the_session_is_found_and_explained(
    mode: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "collations", "kills")
    postgresql = server("postgresql18")
    url = made("postgresql18")
    with needed():
        pooler = pgbouncer(postgresql, connections=4, mode=mode)
    try:
        through = pooler.url(str(sa.make_url(url).database))
        ended = run("verify", "--url", through, *QUICK)
        assert ended.code == 1
        if mode == "statement":
            assert "BROKEN  transactions" in ended.out
            assert "statement mode" in ended.out
            return
        assert "prepare_threshold" in ended.out
        assert "character set" not in ended.out
        ended = run("verify", "--url", through, "--connect-args", '{"prepare_threshold": null}', "--json", *QUICK)
    finally:
        pooler.stop()
    *checks, end = ended.lines
    assert end["kept"], ended.out
    assert "one found another's" in checks[1]["seen"]
    assert "The library keeps nothing in a session" in checks[1]["why"][0]
    assert tables(url) == []


@pytest.mark.parametrize(("where", "leans"), [("postgresql18", False), ("mariadb", False), ("mysql", True)])
def test_a_session_that_clients_share_breaks_calls_where_they_set_something_of_it(
    where: str, leans: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with staged(made(where)) as stage:
        monkeypatch.setattr(stage.ground.catalogue, "note", ("SELECT '{word}'", "SELECT 'client 0'"))
        check = verify.first.session(stage)
    assert check.kept is not leans
    assert stage.is_pooled
    assert ("lock time-out" if leans else "keeps nothing in a session") in check.why[0]


@pytest.mark.parametrize("roles", ["postgresql18", "mariadb", "mysql"], indirect=True)
def test_where_fewer_connections_can_be_had_fewer_call_and_it_is_said(
    roles: Roles,  # noqa: F811
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, "herd", "kills")
    name = roles.new()
    if roles.kind == "postgresql":
        roles.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {name};\nALTER ROLE {name} CONNECTION LIMIT 4")
    else:
        roles.execute(f"GRANT ALL ON idemtable_verify TO {name};\nALTER USER {name} WITH MAX_USER_CONNECTIONS 4")
    url = roles.url_of(name).render_as_string(hide_password=False)
    ended = run("verify", "--url", url, *QUICK)
    assert ended.code == 0, ended.out
    assert "4 callers at once" not in ended.out
    assert "left out: 2 of 4 callers: no more connections can be had" in ended.out
    if roles.kind == "postgresql":
        roles.execute(f"ALTER ROLE {name} CONNECTION LIMIT 3")
    else:
        roles.execute(f"ALTER USER {name} WITH MAX_USER_CONNECTIONS 3")
    ended = run("verify", "--url", url, *QUICK)
    assert ended.code == 3
    assert "connections" in ended.err
    assert tables(roles.url.render_as_string(hide_password=False)) == []


@pytest.mark.parametrize("roles", ["postgresql18", "mariadb", "mysql"], indirect=True)
def test_connections_that_the_server_has_not_noticed_the_end_of_are_waited_for(
    roles: Roles,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, counted, refused = roles.new(), [], []
    if roles.kind == "postgresql":
        roles.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {name};\nALTER ROLE {name} CONNECTION LIMIT 4")
    else:
        roles.execute(f"GRANT ALL ON idemtable_verify TO {name};\nALTER USER {name} WITH MAX_USER_CONNECTIONS 4")

    def holds(stage: Any, more: Any) -> Any:
        counted.extend(stage.callers.engine.connect() for _ in range(stage.count))
        return verify.Check("interleavings", "nothing")

    def notices(context: Any) -> None:
        if context.connection is None:
            refused.append(context.original_exception)
        while counted:
            counted.pop().invalidate()

    only(monkeypatch)
    monkeypatch.setattr(verify.interleavings, "interleavings", holds)
    sa.event.listen(sa.Engine, "handle_error", notices)
    try:
        report = verify.run(roles.url_of(name), seconds=1, callers=2)
    finally:
        sa.event.remove(sa.Engine, "handle_error", notices)
    assert report.kept, report
    assert [check.name for check in report.checks][-2:] == ["collations", "clock"]
    assert refused


# --- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", ["postgresql18", "mariadb", "mysql"], indirect=True)
def test_a_role_that_may_make_this_one_table_can_run_it(
    roles: Roles,  # noqa: F811
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, "collations", "clock", "expiry", "kills")
    name = roles.new()
    if roles.kind == "postgresql":
        roles.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {name}")
        roles.execute("REVOKE EXECUTE ON FUNCTION pg_terminate_backend FROM PUBLIC")
    else:
        roles.execute(f"GRANT SELECT, INSERT, UPDATE, CREATE, INDEX, DROP ON idemtable_verify TO {name}")
    url = roles.url_of(name).render_as_string(hide_password=False)
    ended = run("verify", "--url", url, "--json", *QUICK)
    assert ended.code == 0, ended.out + ended.err
    (kills,) = (check for check in ended.lines if check.get("check") == "kills")
    if roles.kind == "postgresql":
        assert kills["left_out"] == ["the server was not asked to end connections: this role may not"]
    else:
        assert kills["left_out"] == []
    assert kills["times"] > 3
    assert tables(roles.url.render_as_string(hide_password=False)) == []


@pytest.mark.parametrize("roles", ["mariadb"], indirect=True)
def test_a_drop_that_the_role_may_not_do_is_tried_no_second_time(roles: Roles) -> None:  # noqa: F811
    name, drops = roles.new(), []
    roles.execute(f"GRANT SELECT, INSERT, UPDATE, CREATE, INDEX ON idemtable_verify TO {name}")

    def sent(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        drops.extend(re.findall("DROP TABLE", statement))

    sa.event.listen(sa.Engine, "before_cursor_execute", sent)
    try:
        with pytest.raises(sa.exc.DBAPIError, match="DROP command denied") as raised:
            verify.run(roles.url_of(name), seconds=1)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", sent)
    assert len(drops) == 2, "the run's own, and one to clean up"
    assert "which could not be dropped" in raised.value.__notes__[0]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_table_that_is_there_already_is_refused_untouched(url: str, run: Run) -> None:
    engine = sa.create_engine(url)
    IdemTable(engine, table="idemtable_verify").create_all()
    with IdemTable(engine, table="idemtable_verify").transaction("mine", "k") as claim:
        claim.result = 1
    ended = run("verify", "--url", url, *QUICK)
    assert ended.code == 3
    assert "idemtable_verify that verify has not made" in ended.err
    assert "--table" in ended.err
    assert IdemTable(engine, table="idemtable_verify").get("mine", "k") is not None
    engine.dispose()


def test_what_a_killed_run_has_left_is_dropped_and_a_run_at_work_is_not(url: str, run: Run) -> None:
    ground = Ground(sa.make_url(url), {}, "idemtable_verify", None)
    ground.make(1)
    ended = run("verify", "--url", url, *QUICK)
    assert ended.code == 3
    assert "another verify is at work" in ended.err
    with ground.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE idemtable_verify SET expires_at = '2020-01-01 00:00:00'")
    ground.make(1)  # as if it were alone
    assert ground.drop() is None
    assert tables(url) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--url", "sqlite://"), "in memory"),
        (("--url", "sqlite:///:memory:"), "in memory"),
        (("--url", NOWHERE, "--seconds", "0"), "--seconds"),
        (("--url", NOWHERE, "--callers", "1"), "--callers"),
        (("--url", NOWHERE, "--connect-args", "nonsense"), "JSON object"),
        (("--url", NOWHERE, "--connect-args", "[1]"), "JSON object"),
        (("--url", NOWHERE, "--table", "a b"), "table"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(args: tuple[str, ...], said: str, run: Run) -> None:
    ended = run("verify", *args)
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"seconds": "30"}, ValueError),
        ({"seconds": math.nan}, ValueError),
        ({"callers": 2.5}, ValueError),
        ({"told": "print"}, TypeError),
    ],
)
def test_what_cannot_be_is_refused_from_a_program_too(wrong: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(wrong))):
        verify.run(NOWHERE, **wrong)


def test_a_server_or_a_file_that_is_not_there(tmp_path: Path, run: Run) -> None:
    assert run("verify", "--url", NOWHERE).code == 3
    ended = run("verify", "--url", f"sqlite:///{tmp_path / 'typo.db'}")
    assert ended.code == 3
    assert not (tmp_path / "typo.db").exists()


def test_a_file_that_is_not_there_is_not_made_from_a_program_either(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"typo\.db"):
        verify.run(f"sqlite:///{tmp_path / 'typo.db'}", seconds=1)
    assert not (tmp_path / "typo.db").exists()


def test_a_function_that_takes_an_async_driver_says_which_one_it_needs() -> None:
    with pytest.raises(ValueError, match="psycopg"):
        verify.run("postgresql+asyncpg://127.0.0.1:1/shop")


# --- the end ----------------------------------------------------------------------------------------------------------


def interrupted(url: str, number: int, line: str) -> subprocess.Popen[str]:
    """A run that got a signal when it had printed a line that begins so."""
    # As from a terminal: a shell starts background jobs with SIGINT ignored, and a suite may be one, with all it starts.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process: Any = subprocess.Popen(
            [*COMMAND, "verify", "--url", url, "--seconds", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    for said in process.stdout:
        if said.startswith(f"kept    {line}"):
            break
    process.send_signal(number)
    return process  # type: ignore[no-any-return]


def test_nothing_is_left_behind_after_ctrl_c(url: str) -> None:
    check_that_a_signal_leaves_nothing_behind(url, signal.SIGINT)


IGNORED = """
import os, signal, sys
from idemtable import cli
from idemtable.verify import herds

class Lost:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(100))

def herd(*given, herd=herds.herd):
    Lost()  # what is raised here is ignored
    return herd(*given)

herds.herd = herd
cli.main(["verify", "--url", sys.argv[1], "--seconds", "1"])
"""


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql18"], indirect=True)
def test_a_ctrl_c_that_python_ignores_ends_it_after_the_check_that_it_is_at(url: str) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        done = subprocess.run(
            [sys.executable, "-c", IGNORED, url], capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Exception ignored" in done.stderr
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("kept")][-1] == "herd"
    nothing_is_left(url)


@pytest.mark.parametrize("database_url", ["postgresql18"], indirect=True)
def test_nothing_is_left_behind_after_sigterm(url: str) -> None:
    check_that_a_signal_leaves_nothing_behind(url, signal.SIGTERM)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_ctrl_c_that_a_lock_has_made_an_error_of_is_no_broken_promise(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlocked(*_: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            threading.Lock().release()

    monkeypatch.setattr(verify.herds, "herd", unlocked)
    with pytest.raises(KeyboardInterrupt):
        verify.run(url, seconds=1)
    nothing_is_left(url)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_callers_that_wait_for_one_that_was_never_started_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with staged(url, 3) as stage:
        begun, names = stage.callers.begun, iter(range(3))

        def interrupts(work: Any) -> threading.Thread:
            if next(names) == 2:
                raise KeyboardInterrupt
            return begun(work)

        monkeypatch.setattr(stage.callers, "begun", interrupts)
        with pytest.raises(KeyboardInterrupt):
            stage.herd(stage.race("one too few", stage.ways[0]), stage.ways[0], stage.key("k"))
    nothing_is_left(url)


def check_that_a_signal_leaves_nothing_behind(url: str, number: int) -> None:
    process = interrupted(url, number, "call")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, out + err
    assert "Traceback" not in err
    nothing_is_left(url)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql18"], indirect=True)
def test_nothing_is_left_behind_after_an_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(check: Any) -> None:
        if check.name == "herd":
            raise KeyError("of the caller's own")

    with pytest.raises(KeyError):
        verify.run(url, seconds=1, callers=4, told=fails)
    nothing_is_left(url)


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql18"], indirect=True)
def test_nothing_is_left_behind_after_an_error_of_the_way_to_the_database(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stays(*_: Any) -> None:
        raise sa.exc.DBAPIError("INSERT", {}, ValueError()) from UnicodeEncodeError(
            "latin-1", "\u212a", 0, 1, "no such"
        )

    monkeypatch.setattr(Ground, "_stays", stays)
    report = verify.run(url, seconds=1)
    assert [check.name for check in report.checks] == CHECKS[:1]
    assert "utf8mb4" in " ".join(report.why)
    nothing_is_left(url)
    assert report.left_behind == []
    assert report.seconds > 0
