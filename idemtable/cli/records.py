"""Looking at the records and removing them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any

import click

from ..model import Record
from ..table import IdemTable
from . import runner, text
from .failure import Failure, failure
from .options import EPILOG, as_json, on_database, sure, yes_option
from .target import Target

tenant_option = click.option("--tenant", help="The key's tenant.")


@click.command(epilog=EPILOG)
@click.option("--every", type=text.duration, metavar="TIME",
              help="Keep running, a round each 15m, 1h, 1d, until SIGTERM or SIGINT.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 100_000), default=5_000, show_default=True,
              help="Rows for each transaction.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Rows for each round.")
@as_json
@on_database
def purge(target: Target, every: timedelta | None, batch: int, limit: int | None, as_json: bool) -> None:
    """Delete expired records in short transactions.

    One runner at a time: while another is at work this one leaves (exit code 0, "busy": true). A signal ends it after
    the batch it is in, with exit code 0.
    """
    idem = target.keys()

    def once() -> None:
        try:
            with _bar(idem, limit) as shown:
                report = runner.purge(partial(idem.purge, batch=batch, limit=limit), stop, shown)
        finally:
            # A connection that is idle for an hour is cut by the next firewall.
            target.engine.dispose()
        if as_json:
            click.echo(text.line(asdict(report) | {"stopped": stop.asked}))
        elif report.busy:
            click.echo("another purge is at work: nothing deleted")
        else:
            how = f"in {report.batches} batch{'es' if report.batches != 1 else ''}, {report.seconds:.2f} s"
            click.echo(f"deleted {report.deleted:,} expired records {how}")

    with runner.Stop() as stop:
        if every is None:
            once()
        else:
            runner.repeat(once, every, stop, lambda error: failure(error, target.url).show())


@contextmanager
def _bar(idem: IdemTable, limit: int | None) -> Iterator[Any]:
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    total = min(idem.stats().expired, limit or sys.maxsize)
    with click.progressbar(length=total, label="purge", file=sys.stderr, show_pos=True) as bar:
        yield lambda deleted: bar.update(deleted - bar.pos)


@click.command(epilog=EPILOG)
@click.argument("scope", required=False)
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many.")
@as_json
@on_database
def ls(target: Target, scope: str | None, limit: int, as_json: bool) -> None:
    """List the newest records, of one scope or of all."""
    text.show(target.keys().records(scope, limit=limit), as_json, "no records")


@click.command(epilog=EPILOG)
@click.argument("scope")
@click.argument("key")
@tenant_option
@as_json
@on_database
def show(target: Target, scope: str, key: str, tenant: str | None, as_json: bool) -> None:
    """Show the record of one key; exit code 1 if there is none."""
    record = _found(target.keys(), scope, key, tenant)
    click.echo(text.record_line(record) if as_json else text.record_facts(record))


@click.command(epilog=EPILOG)
@click.argument("scope")
@click.argument("key")
@tenant_option
@yes_option
@on_database
def forget(target: Target, scope: str, key: str, tenant: str | None, yes: bool) -> None:
    """Remove the record of one key, so that its next use runs again; asks first on a terminal."""
    idem = target.keys()
    record = _found(idem, scope, key, tenant)
    sure(f"{text.record_facts(record)}\nForget it, and let this request run again?", yes)
    if not idem.forget(scope, key, tenant=tenant):
        raise Failure("somebody else removed it first")
    click.echo("forgotten")


def _found(idem: IdemTable, scope: str, key: str, tenant: str | None) -> Record:
    record = idem.get(scope, key, tenant=tenant)
    if record is None:
        hint = "with this tenant" if tenant is not None else "without a tenant (--tenant names one)"
        raise Failure(f"there is no record of this key in the scope {scope} {hint}")
    return record


@click.command(epilog=EPILOG)
@as_json
@on_database
def stats(target: Target, as_json: bool) -> None:
    """Count the records by scope and status."""
    found = target.keys().stats()
    click.echo(text.stats_line(found) if as_json else text.stats_facts(found))
