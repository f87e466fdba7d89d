"""Looking at the records and removing them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any

import click
import sqlalchemy as sa

from ..model import Record, Status
from ..table import IdemTable
from . import runner, text
from .failure import Failure, failure
from .options import EPILOG, as_json, of_whom, on_database, sure, yes_option
from .target import Target

_STATUSES = [status.value for status in Status if status is not Status.LOCK]
tenant_option = of_whom("--tenant", help="The key's tenant.")


@click.command(epilog=EPILOG)
@click.option("--every", type=text.duration, metavar="TIME",
              help="Keep running, a round each 15m, 1h, 1d, until SIGTERM or SIGINT.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 100_000), default=5_000, show_default=True,
              help="Rows for each transaction.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Rows for each round.")
@as_json
@on_database
def purge(target: Target, every: timedelta | None, batch: int, limit: int | None, as_json: bool) -> None:
    """Delete records that have been expired for a minute, in short transactions.

    One runner at a time: while another is at work this one leaves (exit code 0, "busy": true). A signal ends it after
    the batch it is in, with exit code 0.
    """
    idem = target.keys()

    def once() -> None:
        target.require_file()  # it may have been taken away since the last round
        try:
            with _bar(idem, limit) as shown:
                report = runner.purge(partial(idem.purge, batch=batch, limit=limit), stop, shown)
        finally:
            # A connection that is idle for an hour is cut by the next firewall.
            target.engine.dispose()
        if as_json:
            click.echo(text.line(asdict(report) | {"stopped": stop.asked}))
        elif report.busy:
            click.echo(f"another purge is at work: nothing deleted from {target.place}")
        else:
            how = f"in {report.batches} batch{'es' if report.batches != 1 else ''}, {report.seconds:.2f} s"
            click.echo(f"deleted {report.deleted:,} expired records {how}, from {target.place}")

    with runner.Stop() as stop:
        if every is None:
            once()
        else:
            runner.repeat(once, every, stop, lambda error: failure(error, target.url).show())


@contextmanager
def _bar(idem: IdemTable, limit: int | None) -> Iterator[Any]:
    total = None
    if sys.stderr.isatty():
        with suppress(sa.exc.DBAPIError):  # to count all may take longer than the role may: no reason to delete nothing
            total = min(idem.stats().expired, limit or sys.maxsize)
    if total is None:
        yield lambda _: None
        return
    with click.progressbar(length=total, label="purge", file=sys.stderr, show_pos=True) as bar:
        yield lambda deleted: bar.update(deleted - bar.pos)


@click.command(epilog=EPILOG)
@click.argument("scope", required=False)
@of_whom("--tenant", help="Only this tenant's.")
@click.option(
    "--status", type=click.Choice(_STATUSES), multiple=True, help="Only those of this status, or one of these."
)
@click.option("--expired", is_flag=True, help="Only those whose time is over.")
@click.option("--unfinished", is_flag=True, help="Only those that a function left without a result.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many.")
@as_json
@on_database
def ls(target: Target, scope: str | None, as_json: bool, **wanted: Any) -> None:
    """List the newest records, of one scope or of all."""
    text.show(target.keys().records(scope, **wanted), as_json, f"no such records in {target.place}")


@click.command(epilog=EPILOG)
@click.argument("scope")
@click.argument("key")
@tenant_option
@click.option("--result", is_flag=True, help="Show the stored result too.")
@as_json
@on_database
def show(target: Target, scope: str, key: str, tenant: str | None, result: bool, as_json: bool) -> None:
    """Show the record of one key; exit code 1 if there is none."""
    idem = target.keys()
    record = _found(target, idem, scope, key, tenant)
    stored = text.result(record, idem.stored_result(scope, key, tenant=tenant)) if result else {}
    click.echo(text.record_line(record, stored) if as_json else text.record_facts(record, stored))


@click.command(epilog=EPILOG)
@click.argument("scope")
@click.argument("key")
@tenant_option
@yes_option
@on_database
def forget(target: Target, scope: str, key: str, tenant: str | None, yes: bool) -> None:
    """Remove the record of one key, so that its next use runs again; asks first on a terminal."""
    idem = target.keys()
    record = _found(target, idem, scope, key, tenant)
    sure(f"{text.record_facts(record, {})}\nForget it, and let this request run again?", yes)
    if not idem.forget(scope, key, tenant=tenant):
        raise Failure(f"somebody else removed it first from {target.place}")
    click.echo(f"forgotten: removed from {target.place}")


def _found(target: Target, idem: IdemTable, scope: str, key: str, tenant: str | None) -> Record:
    record = idem.get(scope, key, tenant=tenant)
    if record is None:
        hint = "with this tenant" if tenant is not None else "without a tenant (--tenant names one)"
        raise Failure(f"there is no record of this key in the scope {scope} {hint}, in {target.place}")
    return record


@click.command(epilog=EPILOG)
@as_json
@on_database
def stats(target: Target, as_json: bool) -> None:
    """Count the records by scope and status."""
    found = target.keys().stats()
    click.echo(text.stats_line(found) if as_json else text.stats_facts(found, target.place))
