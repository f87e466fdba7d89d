"""``idemtable verify`` and ``idemtable doctor``: whether the promises hold on the user's own database."""

from __future__ import annotations

import json
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa

from ..model import Level
from ..schema import check_names
from . import text
from .failure import OWN_TABLES, Failure, Unusable, masked
from .options import EPILOG, as_json, debug, on_database, url_option
from .target import Target

if TYPE_CHECKING:
    from ..verify import Check


def _arguments(ctx: click.Context, _: click.Parameter, value: str | None) -> dict[str, Any]:
    try:
        found = json.loads(value or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):  # and not repeated: it may hold a password
        raise click.BadParameter('it takes a JSON object, such as {"prepare_threshold": null}')
    return found


connect_args_option = click.option("--connect-args", callback=_arguments, metavar="JSON",
                                   help="For the driver, as create_engine takes them.")  # fmt: skip


@click.command(epilog=EPILOG)
@click.option("--table", default="idemtable_verify", show_default=True, help="The name of a table of its own.")
@click.option("--schema", envvar="IDEMTABLE_SCHEMA", show_envvar=True, help="The table's schema.")
@click.option("--seconds", type=click.FloatRange(1, 3600), default=30, show_default=True, help="About how long.")
@click.option("--callers", type=click.IntRange(2, 64), default=8, show_default=True, help="How many call at once.")
@click.option("--seed", type=int, help="Of what is random; drawn, and printed, by default.")
@click.option("--report", type=click.Path(dir_okay=False, writable=True, path_type=Path), metavar="FILE.html",
              help="Also write a page with the pictures of the races.")  # fmt: skip
@connect_args_option
@as_json
@debug
@url_option()
def verify(
    url: sa.URL, table: str, schema: str | None, seed: int | None, report: Path | None, as_json: bool, **options: Any
) -> None:
    """Try on a database what the library promises: races, interleavings, killed connections.

    In a table of its own, which is dropped again. Exit code 1, with an explanation, where a promise does not hold.
    """
    from .. import verify as guarantee
    from ..verify.page import page

    click.get_current_context().meta[OWN_TABLES] = True
    check_names(table, schema)
    target = Target(url, table, schema)
    if report is not None:
        _try_to_write(report)
    if (missing := target.no_file) is not None:
        raise Unusable(missing)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    if not as_json:
        click.echo(f"{target.place}; seed {seed}\n")

    def say(line: str) -> None:
        click.echo(masked(line, url))  # what a driver says is in it

    with _ended_by_signals() as ask:

        def told(check: Check) -> None:
            say(text.check_line(check) if as_json else text.check_lines(check))
            ask()

        done = guarantee.run(target.engine.url, table=table, schema=schema, seed=seed, told=told, **options)
    if report is not None:
        report.write_text(masked(page(done), url), encoding="utf-8")
    say(text.report_line(done) if as_json else text.report_lines(done))
    sys.exit(0 if done.kept else Failure.exit_code)


def _try_to_write(report: Path) -> None:
    """Find out before anything is tried, and not half a minute later."""
    try:
        report.open("a", encoding="utf-8").close()
    except OSError as error:
        raise click.BadParameter(f"{report} cannot be written: {error.strerror}", param_hint="--report") from None


@contextmanager
def _ended_by_signals() -> Iterator[Callable[[], None]]:
    """Let SIGTERM end what runs inside as Ctrl-C does: the table is dropped. A second one ends the program at once.

    Yields what is to be asked now and then: Python ignores what a handler raises where it happens to be in the callback of
    a weak reference, and then it ends there.
    """
    came = False

    def heard(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(number, before[signal.Signals(number)])
        raise KeyboardInterrupt

    def ask() -> None:
        if came:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if before[signal.SIGINT] != signal.default_int_handler:
        del before[signal.SIGINT]  # a shell has it ignored for what it starts in the background
    try:
        for number in before:
            signal.signal(number, heard)
        yield ask
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.command(epilog=EPILOG)
@as_json
@on_database
def doctor(target: Target, as_json: bool) -> None:
    """Say what of the table, the server and its settings breaks a promise, and the cure of each.

    Reads only. Exit code 1 if something needs mending; notes do not count.
    """
    from .. import doctor as examination

    findings = examination.examine(target.url, **target.names)
    if as_json:
        for finding in findings:
            click.echo(masked(text.finding_line(finding), target.url))
    else:
        click.echo(masked(text.findings(findings, target.place), target.url))
    sys.exit(Failure.exit_code if any(finding.level is Level.MEND for finding in findings) else 0)
