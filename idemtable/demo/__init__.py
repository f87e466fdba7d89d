"""The library's main job on real input: recorded payment requests, many workers, one of them killed.

`run` makes the recording, gives the orders, and prints what a person wants to see. Then a second act, in `shop`: tokens
and guards.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click
import sqlalchemy as sa

from .. import schema as schemas
from .. import upgrade as steps
from ..dialects import named
from ..errors import SchemaError
from ..table import IdemTable
from . import business, check, recording, shop
from .crew import Crew

__all__ = ["made_tables", "run"]

_NAMES: Final = (business.TABLE, f"{business.TABLE}_version", *business.metadata.tables)


def run(
    url: sa.URL | None, *, workers: int = 8, requests: int = 4_000, seed: int = 1, unprotected: bool = False
) -> bool:
    """Do all of it, print it, and say whether every promise was kept.

    Args:
        url: the database, with a sync driver; a SQLite file in a folder of its own if it is ``None``.
        workers: processes at once.
        requests: lines of the recording.
        seed: of the recording.
        unprotected: call the business without the library.
    """
    folder = Path(tempfile.mkdtemp(prefix="idemtable-demo-"))
    if url is None:
        url = sa.URL.create("sqlite", database=str(folder / "demo.db"))
    engine = sa.create_engine(url)
    good = False
    try:
        with made_tables(engine):
            evidence = gather(folder, engine, workers, requests, seed, protected=not unprotected)
            shown = [] if unprotected else list(shop.play(engine))
        good = _judged([*check.promises(evidence), *shown])
    finally:
        engine.dispose()
        if good or not any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            click.echo(f"The recording and all answers are in {folder}", err=True)
    return good


@contextmanager
def made_tables(engine: sa.Engine) -> Iterator[None]:
    """Have the demo's tables, made by the migrations, and drop them at the end."""
    there = [name for name in _NAMES if sa.inspect(engine).has_table(name)]
    if there and not _own(engine, there):
        raise SchemaError(f"{', '.join(there)}: there is a table of that name that is not the demo's: rename it")
    _drop(engine)
    with engine.connect() as connection:
        for statement in named(engine.dialect.name).many_programs:
            connection.exec_driver_sql(statement)
    try:
        steps.upgrade(engine, table=business.TABLE)
        yield
    finally:
        _drop(engine)


def _own(engine: sa.Engine, there: list[str]) -> bool:
    """Say whether tables were left behind by a demo that was killed."""
    inspector = sa.inspect(engine)
    for name in there:
        known = business.metadata.tables.get(name)
        columns = {column["name"] for column in inspector.get_columns(name)}
        if known is not None and columns != set(known.columns.keys()):
            return False
        if name == f"{business.TABLE}_version" and columns != {"version_num"}:
            return False
    with engine.connect() as connection:
        return business.TABLE not in there or schemas.state(connection, business.TABLE).curable


def _drop(engine: sa.Engine) -> None:
    engine.dispose()
    steps.downgrade(engine, table=business.TABLE)
    business.metadata.drop_all(engine)


def gather(
    folder: Path, engine: sa.Engine, workers: int, count: int, seed: int, *, protected: bool = True
) -> check.Evidence:
    """Record, deliver, kill, restart, purge; give all there is to judge it by."""
    file = folder / "requests.jsonl"
    recording.record(file, count, seed)
    requests = recording.read(file)
    keys = len({request.key for request in requests})
    kib = file.stat().st_size // 1024
    click.echo(f"{len(requests):,} recorded payment requests with {keys:,} keys ({kib:,} KiB, seed {seed})")
    how = f"{workers} workers" if protected else f"{workers} workers, WITHOUT idemtable"
    click.echo(f"{how}, on {_place(engine.url)}\n")
    business.prepare(engine, {request.account for request in requests})
    engine.dispose()

    with Crew(folder, engine.url, workers, protected) as crew:
        began = time.monotonic()
        for day, name in enumerate(recording.DAYS, 1):
            start = time.monotonic()
            killed = crew.work(day, killing=day == 2)
            sent = sum(request.day == day for request in requests)
            click.echo(f"  {name:<9}  {sent:>6,} requests  {time.monotonic() - start:5.1f} s")
            if day == 1:
                # A week passes, in which the keys of the first day expire. It goes by the database's clock, which
                # nobody can put forward, so their time to live is short and is waited for.
                time.sleep(business.BRIEFLY.total_seconds())
            if killed:
                told = sum(answer.answer == "in progress" for answer in check.read_answers(folder))
                who = f"worker {crew.victim + 1} was killed with SIGKILL inside the payment {killed},"
                then = f"restarted, and its share sent again; {told:,} times the others were told to wait"
                click.echo(f"{'':13}{who}\n{'':13}{then}")
        seconds = time.monotonic() - began
        killed_key = crew.killed

    answers = check.read_answers(folder)
    ledger, balances = business.books(engine)
    _print_counts(answers, len(ledger), killed_key is not None, seconds)

    idem = IdemTable(engine, table=business.TABLE)
    stats = idem.stats()
    statuses = ", ".join(f"{count:,} {status.value}" for status, count in stats.by_status.items()) or "none"
    size = "size unknown" if stats.table_bytes is None else f"{stats.table_bytes // 1024:,} KiB"
    _let_a_day_pass(engine)
    report = idem.purge()
    click.echo(f"\n  {'stats':<12} {stats.rows:>7,}  records: {statuses}; {stats.expired:,} expired; {size}")
    click.echo(f"  {'purge':<12} {report.deleted:>7,}  expired records deleted; {idem.stats().rows:,} stay\n")
    return check.Evidence(requests, answers, ledger, balances, killed_key, stats.expired, report.deleted)


def _let_a_day_pass(engine: sa.Engine) -> None:
    """Make older what has expired: a purge leaves a row for a minute past its time, and the demo has no minute."""
    rows, now = schemas.build(sa.MetaData(), business.TABLE), datetime.now(UTC)
    times = dict.fromkeys(("created_at", "completed_at", "expires_at"), now - timedelta(days=1))
    with engine.begin() as connection:
        # The others live for days yet: no clock is wrong by that much.
        connection.execute(rows.update().where(rows.c.expires_at < now + timedelta(hours=1)).values(times))


def _print_counts(answers: list[check.Answer], effects: int, killed: bool, seconds: float) -> None:
    counts = Counter(answer.answer for answer in answers)
    deliveries = len(answers) + killed
    rows = [
        ("deliveries", deliveries, "requests sent, with every retry"),
        ("effects", effects, "payments in the ledger"),
        ("replays", counts["replayed"], "answered with the first one's receipt"),
        ("refusals", counts["refused"], "the key came with another amount"),
        ("failures", counts["failed"], "the gateway was away; rolled back, sent again"),
        ("in progress", counts["in progress"], "told to wait; sent again"),
        ("no answer", int(killed), "the worker was killed; sent again"),
    ]
    click.echo("\n" + "\n".join(f"  {name:<12} {count:>7,}  {what}" for name, count, what in rows))
    click.echo(f"  {'time':<12} {seconds:>5.1f} s  {deliveries / seconds:,.0f} deliveries per second")


def _judged(found: list[check.Promise]) -> bool:
    try:
        "✓✗".encode(sys.stdout.encoding or "utf-8")
        marks = {True: "✓", False: "✗"}
    except UnicodeEncodeError:
        marks = {True: "kept  ", False: "BROKEN"}
    width = max(len(promise.text) for promise in found)
    for promise in found:
        mark = click.style(marks[promise.kept], fg="green" if promise.kept else "red", bold=True)
        click.echo(f"  {mark} {promise.text:<{width}}  {promise.facts}")
    return all(promise.kept for promise in found)


def _place(url: sa.URL) -> str:
    where = url.database if url.host is None else f"{url.host}:{url.port or 'default port'}, {url.database}"
    return f"{url.get_backend_name()}, {where}"
