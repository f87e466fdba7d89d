"""The demo keeps its promises, and its checker sees when one is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import IdemTable, demo, upgrade
from idemtable.cli.failure import Failure
from idemtable.demo import business, check, recording, shop
from idemtable.demo.check import Answer, Evidence
from idemtable.errors import SchemaError
from idemtable.tokens import Tokens

COUNT = 400


def broken(evidence: Evidence) -> list[str]:
    return [promise.text for promise in check.promises(evidence) if not promise.kept]


# --- the recording --------------------------------------------------------------------------------------------------


def test_the_same_seed_records_the_same_file(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    recording.record(one, 1_000, 7)
    recording.record(two, 1_000, 7)
    recording.record(other, 1_000, 8)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
    assert len(recording.read(one)) == 1_000


@pytest.mark.parametrize("seed", range(5))
def test_a_recording_has_all_that_can_happen(seed: int) -> None:
    requests = list(recording.requests(4_000, seed))
    payments, refused = check.wanted(requests)
    assert len(requests) == 4_000
    assert len(refused) > 100
    assert sum(request.gateway == "down" for request in requests) > 50
    keys = [request.key for request in requests]
    assert sum(a == b == c for a, b, c in zip(keys, keys[1:], keys[2:], strict=False)) > 100, "no bursts"
    twice = [key for key in dict.fromkeys(keys) if sum(payment[0] == key for payment in payments) == 2]
    assert len(twice) > 20, "no expired keys"


# --- the checker ----------------------------------------------------------------------------------------------------


@pytest.fixture
def evidence() -> Evidence:
    """A run in which everything went well, written down by hand."""
    requests = [
        recording.Request("", 1, "old-1", "a", 100),
        recording.Request("", 1, "old-2", "a", 200),
        recording.Request("", 2, "pay-1", "a", 300),
        recording.Request("", 2, "pay-1", "a", 300),
        recording.Request("", 2, "pay-2", "b", 400, "down"),
        recording.Request("", 3, "pay-1", "a", 999),
        recording.Request("", 3, "old-1", "a", 101),
    ]
    ledger = [(1, "old-1", "a", 100), (2, "old-2", "a", 200), (3, "pay-1", "a", 300), (4, "pay-2", "b", 400)]
    ledger.append((5, "old-1", "a", 101))
    receipts = {id_: {"payment": id_, "account": account, "amount": amount} for id_, _, account, amount in ledger}
    said = [(0, "paid", 1), (1, "paid", 2), (2, "paid", 3), (3, "replayed", 3), (4, "paid", 4), (6, "paid", 5)]
    answers = [Answer(line, answer, 0.0, receipts[id_]) for line, answer, id_ in said]
    answers += [Answer(4, "failed", 0.0), Answer(5, "refused", 0.0)]
    return Evidence(requests, answers, ledger, {"a": -701, "b": -400}, killed="pay-1", expired=1, purged=1)


def test_a_good_run_passes(evidence: Evidence) -> None:
    assert broken(evidence) == []


def _answers(evidence: Evidence, line: int, **changes: object) -> list[Answer]:
    return [replace(a, **changes) if a.line == line else a for a in evidence.answers]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("damage", "promise"),
    [
        (lambda e: replace(e, answers=[a for a in e.answers if a.line != 1]), "every request was answered"),
        (lambda e: replace(e, ledger=[*e.ledger, (6, "pay-1", "a", 300)]), "exactly once"),
        (lambda e: replace(e, ledger=e.ledger[:1] + e.ledger[2:]), "exactly once"),
        (lambda e: replace(e, ledger=[*e.ledger, (6, "pay-1", "a", 300)]), "killed worker"),
        (lambda e: replace(e, ledger=[*e.ledger, (6, "pay-2", "b", 400)]), "left nothing behind"),
        (lambda e: replace(e, balances=e.balances | {"b": -401}), "every balance"),
        (lambda e: replace(e, answers=_answers(e, 3, receipt=e.answers[4].receipt)), "identical"),
        (lambda e: replace(e, answers=_answers(e, 3, receipt={**e.answers[2].receipt, "amount": 301})), "identical"),
        (lambda e: replace(e, answers=_answers(e, 5, answer="replayed")), "another amount"),
        (lambda e: replace(e, answers=_answers(e, 3, answer="refused", receipt=None)), "another amount"),
        (lambda e: replace(e, killed=None), "killed inside"),
        (lambda e: replace(e, purged=0), "purge"),
        (lambda e: replace(e, expired=2, purged=2), "purge"),
    ],
)
def test_a_broken_promise_is_seen(evidence: Evidence, damage: Callable[[Evidence], Evidence], promise: str) -> None:
    assert any(promise in text for text in broken(damage(evidence)))


# --- the whole of it ------------------------------------------------------------------------------------------------


def tables(url: str) -> list[str]:
    engine = sa.create_engine(url)
    try:
        return sa.inspect(engine).get_table_names()
    finally:
        engine.dispose()


def test_every_promise_is_kept(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(sa.make_url(database_url), workers=2, requests=COUNT)
    printed = capsys.readouterr().out
    assert "✗" not in printed
    assert printed.count("✓") == 8 + 3
    assert "killed with SIGKILL inside the payment pay-" in printed
    assert tables(database_url) == []


def test_the_second_act_sees_when_nothing_guards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(session: Session, ident: int, **values: Any) -> None:
        session.execute(sa.update(shop.orders).where(shop.orders.c.id == ident).values(**values))

    class Careless:
        """A state machine that allows everything."""

        def advance(self, session: Session, ident: int, *, to: str) -> Any:
            write(session, ident, status=to)
            return SimpleNamespace(moved=True)

    def overwrite(session: Session, table: Any, ident: int, *, version: int, values: Any) -> int:
        write(session, ident, **values)
        return version + 1

    def run_each_time(tokens: Any, **options: Any) -> Any:
        def decorator(function: Any) -> Any:
            def careless(*args: Any) -> Any:
                with Session(engine) as session, session.begin():
                    return function(session, *args)

            return careless

        return decorator

    monkeypatch.setattr(IdemTable, "machine", lambda *_: Careless())
    monkeypatch.setattr(shop, "compare_and_set", overwrite)
    monkeypatch.setattr(Tokens, "transactional", run_each_time)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    with demo.made_tables(engine):
        business.metadata.create_all(engine)
        assert [promise.kept for promise in shop.play(engine)] == [False, False, False]
    engine.dispose()


def test_without_protection_it_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "idemtable", "demo", "--workers", "3", "--requests", str(COUNT), "--unprotected"]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)
    assert ended.returncode == Failure.exit_code == 1
    assert "✗ every payment was made exactly once" in ended.stdout
    folder = Path(ended.stderr.split()[-1])
    assert json.loads((folder / "requests.jsonl").read_text().splitlines()[0])["day"] == 1


def test_a_demo_that_never_began_speaks_of_no_recording_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(sa.exc.OperationalError):
        demo.run(sa.make_url(f"sqlite:///{tmp_path}/no folder/shop.db"), workers=2, requests=COUNT)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_tables_of_somebody_else_are_left_alone(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE idemtable_demo_ledger (mine INTEGER)")
        connection.exec_driver_sql("INSERT INTO idemtable_demo_ledger VALUES (1)")
    with pytest.raises(SchemaError, match="idemtable_demo_ledger"):
        demo.run(sa.make_url(database_url), workers=2, requests=COUNT)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT mine FROM idemtable_demo_ledger").scalar() == 1
    engine.dispose()


def test_what_a_killed_demo_left_behind_is_taken_away(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    upgrade.upgrade(engine, table=business.TABLE)
    business.prepare(engine, {"left behind"})
    with demo.made_tables(engine):
        assert len(tables(database_url)) == 2
    assert tables(database_url) == []
    engine.dispose()
