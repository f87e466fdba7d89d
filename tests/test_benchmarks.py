"""The benchmarks say what was measured, whether it is what was promised, and count what they say that they count.

How fast anything is, is no matter of a test.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

import idemtable
from tests.benchmarks import (
    backlog,
    before,
    command,
    cores,
    databases,
    goals,
    growth,
    harness,
    machine,
    memory,
    page,
    pair,
    places,
    results,
)
from tests.benchmarks.results import Goal, Part, Row, Stamp, Table
from tests.benchmarks.wire import Wire
from tests.servers import MissingEngine
from tests.servers.ports import HOST
from tests.support import PATIENCE
from tests.support.backends import needed
from tests.support.forked import python

BENCHMARKS = Path(harness.__file__).parent

STAMP = Stamp(
    date="2020-02-29",
    command="make bench",
    quick=False,
    seconds=61.4,
    load=(0.1, 1.5),
    machine={"CPU": "Abacus", "cores": "2", "disk": "a stone"},
    versions={"PostgreSQL": "18.1", "SQLAlchemy": "2.1.9"},
)


def row(name: str, title: str, ratio: float, **figures: float) -> Row:
    return Row(name, title, {"ratio": ratio, "low": ratio - 0.05, "high": ratio + 0.05, **figures})


def part(title: str = "PostgreSQL", **changes: object) -> Part:
    """A result that nobody has measured."""
    first = [row("bare", "bare", 1, median=1234.5), row("ours", "`@idem.transactional`", 0.7799, median=1583.2)]
    given = {
        "stamp": STAMP,
        "tables": [Table("first-1", "psycopg, one client", first, note="Said below.", plot="first")],
        "goals": [
            Goal("first execution", 0.78, 0.7799, table="first-1", row="ours", alone=0.849),
            Goal("round trips added", 0, 0.0, most=True, digits=0),
            Goal("own CPU", 25, 25.001, most=True, unit="µs"),
            Goal("`deferred=True`", 1.05, None),
        ],
    }
    return Part(title, **(given | changes))  # type: ignore[arg-type]


def line(text: str, start: str) -> str:
    (found,) = [one for one in text.splitlines() if one.startswith(start)]
    return found


# --- the page -------------------------------------------------------------------------------------------------------------


def test_the_page_of_the_docs_is_what_its_results_say() -> None:
    files = page.render(results.load(results.FOLDER))
    assert {name: (results.FOLDER / name).read_text(encoding="utf-8") for name in files} == files
    pictures = {f"{page.PICTURES}/{path.name}" for path in (results.FOLDER / page.PICTURES).iterdir()}
    assert pictures == files.keys() - {page.PAGE}


def test_a_goal_stands_beside_its_figure_and_says_whether_it_is_met() -> None:
    text = page.render({"postgresql": part()})[page.PAGE]
    assert line(text, "| PostgreSQL | round trips added") == "| PostgreSQL | round trips added | ≤ 0 | 0 | ✓ |  |"
    assert "1 of the 3 goals that were measured are met." in text
    assert "1 could not be measured." in text
    assert (
        line(text, "| PostgreSQL | `deferred=True`") == "| PostgreSQL | `deferred=True` | ≥ 1.05 |  | not measured |  |"
    )


def test_a_goal_that_is_missed_by_a_hair_is_missed_and_looks_like_it() -> None:
    text = page.render({"postgresql": part()})[page.PAGE]
    assert line(text, "| PostgreSQL | first execution") == "| PostgreSQL | first execution | ≥ 0.78 | 0.77 | ✗ | 0.84 |"
    assert line(text, "| PostgreSQL | own CPU") == "| PostgreSQL | own CPU | ≤ 25.00 µs | 25.01 µs | ✗ |  |"


def test_a_figure_that_is_exactly_the_goal_meets_it() -> None:
    for most in (True, False):
        assert Goal("what", 0.78, 0.78, most=most).met is True


def test_a_table_has_its_figures_with_their_spread() -> None:
    text = page.render({"postgresql": part()})[page.PAGE]
    assert "| | throughput | median, µs |\n|---|---|---|" in text
    assert "| `@idem.transactional` | 0.78 (0.73\u20130.83) | 1,583 |" in text
    assert "Said below." in text


def test_a_part_says_where_and_when_it_was_measured() -> None:
    text = page.render({"postgresql": part()})[page.PAGE]
    assert "PostgreSQL 18.1, SQLAlchemy 2.1.9." in text
    assert "`make bench`, 2020-02-29, 61 s, load 0.1 before and 1.5 after." in text
    assert "- CPU: Abacus, cores: 2\n" in text
    assert "Disk: a stone." in text
    assert "quick run:" not in text
    hasty = part(stamp=msgspec.structs.replace(STAMP, quick=True))
    assert "**A quick run:" in page.render({"postgresql": hasty})[page.PAGE]


def test_where_a_page_was_put_is_nothing_to_its_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["", "--only", "mariadb", "--to", "elsewhere"])
    assert machine.Watch("make bench").stamp({}).command == 'make bench ARGS="--only mariadb"'
    monkeypatch.setattr("sys.argv", ["", "--to=elsewhere"])
    assert machine.Watch("make bench").stamp({}).command == "make bench"


COMMANDS = sorted(
    path.stem for path in BENCHMARKS.glob("*.py") if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)


# It is begun by others.
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "wire"])
def test_each_command_says_what_it_takes(name: str) -> None:
    module = "tests.benchmarks" if name == "__main__" else f"tests.benchmarks.{name}"
    said = python(["-m", module, "--help"], cwd=BENCHMARKS.parents[1], env=dict(os.environ))
    assert said.returncode == 0, said.stderr
    assert "usage: " in said.stdout


def test_two_states_of_the_library_take_turns_in_one_process(tmp_path: Path) -> None:
    then = tmp_path / pair.THEN
    shutil.copytree(Path(idemtable.__file__).parent, then, ignore=shutil.ignore_patterns("__pycache__"))
    before.rename(then)
    assert not re.findall(r"^\s*(?:from|import) idemtable\b", "".join(map(Path.read_text, then.rglob("*.py"))), re.M)
    with before.served("sqlite") as urls:
        found = before.measured(urls, tmp_path, (pair.THEN, "idemtable"), processes=2, rounds=5)
    assert len(found) == 2
    assert all(one["median"] > 0 and one["median_then"] > 0 for one in found)
    assert len(list(before.told(found))) == 2


def test_the_memory_of_a_process_is_looked_at_now_and_then() -> None:
    with memory.served("sqlite") as engine:
        assert len(list(memory.looks(engine, 200))) == memory.LOOKS + 1


def test_parts_stand_in_their_order_and_unknown_ones_behind_them() -> None:
    made = {name: part(name.title()) for name in ("zebra", "peers", "growth", "batch", "postgresql")}
    text = page.render(made)[page.PAGE]
    sections = re.findall(r"^## (.+)$", text, re.M)
    assert sections[3:] == ["Postgresql", "Batch", "Growth", "Peers", "Zebra"]
    assert "Parts of `make bench` are missing." in text


def test_a_picture_has_a_dot_for_each_variant_but_the_base_and_a_tick_for_each_goal() -> None:
    files = page.render({"postgresql": part()})
    picture = ElementTree.fromstring(files["benchmarks/postgresql-first.svg"])
    space = "{http://www.w3.org/2000/svg}"
    assert len(picture.findall(f"{space}circle")) == 1
    assert [one.get("fill") for one in picture.findall(f"{space}circle")] == ["#0b6bcb"]  # stands out
    assert [one.get("stroke") for one in picture.findall(f"{space}line")].count("#c4432b") == 1
    texts = [one.text for one in picture.findall(f"{space}text")]
    assert {"1 = bare", "psycopg, one client", "@idem.transactional", "0.78"} <= set(texts)
    assert "](benchmarks/postgresql-first.svg)" in files[page.PAGE]


def test_a_new_part_takes_the_old_ones_place_and_leaves_the_others(tmp_path: Path) -> None:
    page.keep({"postgresql": part(), "batch": part("Batches")}, tmp_path)
    page.keep({"batch": part("Batches", tables=[])}, tmp_path)
    kept = results.load(tmp_path)
    assert kept == {"postgresql": part(), "batch": part("Batches", tables=[])}
    assert [path.name for path in (tmp_path / page.PICTURES).iterdir()] == ["postgresql-first.svg"]
    assert (tmp_path / page.PAGE).read_text(encoding="utf-8") == page.render(kept)[page.PAGE]


# --- the commands ---------------------------------------------------------------------------------------------------------


def test_a_goal_that_was_missed_ends_the_command_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.measure({"postgresql": part}, tmp_path) == 1
    printed = capsys.readouterr().out
    assert "Missed:\n  PostgreSQL: first execution\n  PostgreSQL: own CPU\n" in printed
    assert "Not measured:\n  PostgreSQL: `deferred=True`\n" in printed


def test_what_could_not_be_measured_is_said_and_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> Part:
        raise MissingEngine("MySQL: nowhere")

    unmeasured = part(goals=[Goal("`deferred=True`", 1.05, None)])
    assert command.measure({"mysql": absent, "postgresql": lambda: unmeasured}, tmp_path) == 0
    assert "Not measured:\n  mysql: MySQL: nowhere\n  PostgreSQL: `deferred=True`\n" in capsys.readouterr().out
    assert results.load(tmp_path) == {"postgresql": unmeasured}


def test_a_part_that_fails_is_told_from_a_goal_that_is_missed(tmp_path: Path) -> None:
    def failing() -> Part:
        raise RuntimeError("a bug")

    assert command.measure({"mysql": failing, "postgresql": part}, tmp_path) == 2
    assert results.load(tmp_path) == {"postgresql": part()}  # those after it are measured all the same


# --- what is compared -----------------------------------------------------------------------------------------------------


TINY = harness.Size(quick=True, rounds=7, far=7, slices=1, seconds=0.02, records=50, some=20, trips=3, storms=1, keys=2)


@pytest.mark.parametrize("name", ["sqlite", *places.PLACES])
@pytest.mark.timeout(300)
def test_every_goal_of_a_database_is_measured(name: str) -> None:
    with needed():
        found = databases.file(TINY) if name == "sqlite" else databases.server(name, TINY)
    absent = [goal.what for goal in found.goals if goal.measured is None]
    assert all("`deferred=True`" in what or "`lookaside=True`" in what for what in absent), absent
    assert len(found.goals) - len(absent) >= 6
    page.render({name: found})
    for table in found.tables:
        assert (
            table.name != "trips" or table.figure("bare", "trips") == 4
        )  # of both statements, and of what is round them
        assert table.name != "storm" or table.figure("hand", "runs") == table.figure("hand", "keys") == 2


@pytest.mark.parametrize("room", [backlog, growth, memory])
@pytest.mark.timeout(300)
def test_every_goal_of_large_numbers_is_measured(room: Any) -> None:
    with needed():
        found = room.part(TINY)
    assert found.goals
    assert all(goal.measured is not None for goal in found.goals)
    page.render({"growth": found})


def test_a_goal_beside_another_row_has_a_floor_where_that_was_measured() -> None:
    rows = [row("base", "base", 1), row("hand", "by hand", 0.5), row("alone", "alone", 0.9), row("ours", "ours", 0.6)]
    judge = goals.Judge([Table("first", "one client", rows)])
    judge.beside("with", 1.3, "first", "ours", "hand", "alone")
    judge.beside("without", 1.3, "first", "ours", "hand")
    judge.ratio("not measured", 1.3, "first", "other", "nothing")
    assert [(one.measured, one.alone) for one in judge.goals] == [(1.2, 1.8), (1.2, None), (None, None)]


def test_with_one_client_everything_has_as_many_turns() -> None:
    counts = {"base": 0, "other": 0}

    def of(name: str) -> None:
        counts[name] += 1

    figures = harness.in_turn({name: lambda name=name: of(name) for name in counts}, 21, "base")  # type: ignore[misc]
    assert counts == {"base": 42, "other": 42}
    assert figures["base"]["ratio"] == figures["base"]["low"] == figures["base"]["high"] == 1
    assert figures["other"]["low"] <= figures["other"]["high"]


def test_a_slice_is_compared_with_those_round_it() -> None:
    rates = [("other", 7.0), ("base", 100.0), ("other", 60.0), ("base", 50.0), ("other", 30.0), ("base", 10.0)]
    done = [(name, harness.Slice(rate, [1.0])) for name, rate in rates]
    figures = harness._against_neighbours(["base", "other"], done)
    # 60 of 75, and 30 of 30; the slice before all of them only warms up.
    assert figures["other"]["ratio"] == pytest.approx(0.9)
    assert figures["base"]["rate"] == 50


def test_what_a_client_raises_ends_the_comparison() -> None:
    def fails() -> None:
        raise KeyError("of a client")

    with pytest.raises(KeyError, match="of a client"):
        harness.in_slices({"base": fails}, 1, "base", 3, 0.01)


# --- round trips ----------------------------------------------------------------------------------------------------------


class Shouting:
    """A server of one connection that answers each line at once, with the same line."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._heard, self._news = b"", threading.Condition()
        self._thread = threading.Thread(target=self._serve)

    def await_heard(self, said: bytes) -> None:
        """Come back when it has been told all of that."""
        with self._news:
            assert self._news.wait_for(lambda: self._heard.endswith(said), PATIENCE), self._heard

    def await_end(self) -> None:
        """Come back when its client has gone."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while said := connection.recv(1000):
                with self._news:
                    self._heard += said
                    self._news.notify_all()
                connection.sendall(b"".join(one for one in said.splitlines(keepends=True) if one.endswith(b"\n")))

    def __enter__(self) -> Shouting:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.await_end()
        self._listener.close()


def test_a_round_trip_is_one_that_the_client_waits_for() -> None:
    with Shouting() as server, Wire(server.port) as wire, socket.create_connection((HOST, wire.port)) as client:
        for expected in (1, 2):
            client.sendall(b"one\n")
            assert client.recv(10) == b"one\n"
            assert wire.trips == expected


def test_what_is_sent_before_the_answer_is_there_is_part_of_one_round_trip() -> None:
    with Shouting() as server, Wire(server.port) as wire, socket.create_connection((HOST, wire.port)) as client:
        wire.hold(0, 3600)
        for said in (b"BEGIN\n", b"claim\n", b"look\n"):
            client.sendall(said)
            server.await_heard(said)  # so that they are three packets, and three answers
        assert wire.trips == 0
        wire.hold(0, 0)
        with client.makefile("rb") as answers:
            assert [answers.readline() for _ in range(3)] == [b"BEGIN\n", b"claim\n", b"look\n"]
        assert wire.trips == 1


def test_what_nobody_answers_is_no_round_trip() -> None:
    with Shouting() as server, Wire(server.port) as wire, socket.create_connection((HOST, wire.port)) as client:
        client.sendall(b"no end of the line")
        server.await_heard(b"line")
        assert wire.trips == 0


def test_whoever_hangs_up_is_heard_at_the_other_end() -> None:
    with Shouting() as server, Wire(server.port) as wire:
        with socket.create_connection((HOST, wire.port)) as client:
            client.sendall(b"one\n")
            server.await_heard(b"one\n")
        server.await_end()
    with (
        socket.create_server((HOST, 0)) as listener,
        Wire(listener.getsockname()[1]) as wire,
        socket.create_connection((HOST, wire.port), PATIENCE) as client,
    ):
        listener.accept()[0].close()
        assert client.recv(10) == b""


def test_a_wire_that_ends_takes_its_connections_with_it() -> None:
    with Shouting() as server:
        with Wire(server.port) as wire:
            client = socket.create_connection((HOST, wire.port))
            client.sendall(b"one\n")
            assert client.recv(10) == b"one\n"
        with client:
            assert client.recv(10) == b""


def test_what_is_far_away_has_none_of_the_clients_cores() -> None:
    every = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        with cores.apart(other.pid):
            mine, its = os.sched_getaffinity(0), os.sched_getaffinity(other.pid)
        assert (os.sched_getaffinity(0), os.sched_getaffinity(other.pid)) == (every, every)
        other.communicate(b"\n")
    if len(every) == 1:
        assert mine == its == every
    else:
        assert len(mine) == 1
        assert its == every - mine
