"""`idemtable purge`: once, every so often, beside another one, until a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import click
import pytest
import sqlalchemy as sa

from idemtable import IdemTable
from idemtable.cli import text
from tests.support.cli import COMMAND, Run, expire, keep
from tests.support.crowd import until


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


def check_that_it_runs_every_second_until(number: signal.Signals, idem: IdemTable, url: str) -> None:
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


def test_every_keeps_running_until_a_signal(idem: IdemTable, url: str) -> None:
    check_that_it_runs_every_second_until(signal.SIGTERM, idem, url)


def test_every_keeps_running_until_it_is_interrupted_by_hand(file_url: str) -> None:
    engine = sa.create_engine(file_url)
    check_that_it_runs_every_second_until(signal.SIGINT, IdemTable(engine), file_url)
    engine.dispose()


def test_a_signal_ends_a_purge_after_its_batch(file_url: str, run: Run) -> None:
    engine = sa.create_engine(file_url)
    idem = IdemTable(engine)
    expire(idem, 300)
    command = [*COMMAND, "purge", "--batch", "1", "--json", "--url", file_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as runner:
        until(lambda: idem.stats().expired < 300, "the purge does not begin")
        runner.terminate()
        out, _ = runner.communicate(timeout=30)
    report = json.loads(out)
    assert runner.returncode == 0
    assert report["stopped"] is True
    assert 0 < report["deleted"] == 300 - idem.stats().expired < 300
    assert not idem.purge().busy
    engine.dispose()


def test_a_table_that_takes_too_long_to_count_is_purged_without_a_bar(
    idem: IdemTable, url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counts(table: IdemTable) -> None:
        raise sa.exc.OperationalError("SELECT", {}, Exception("canceling statement due to statement timeout"))

    expire(idem, 2)
    monkeypatch.setattr(IdemTable, "stats", counts)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    ended = run("purge", "--json", "--url", url)
    assert (ended.code, ended.lines[0]["deleted"]) == (0, 2)


def test_every_survives_a_database_that_is_away_for_a_while(file_url: str, tmp_path: Path) -> None:
    file = tmp_path / "file.db"
    command = [*COMMAND, "purge", "--every", "1s", "--json", "--url", file_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None
        assert runner.stderr is not None
        runner.stdout.readline()
        file.rename(tmp_path / "away.db")
        assert "Error: " in runner.stderr.readline()
        assert not file.exists()
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
