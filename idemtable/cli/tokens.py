"""``idemtable tokens``: what an operator does with one-time tokens from outside the program."""

from __future__ import annotations

from datetime import timedelta

import click

from ..tokens import Tokens
from . import text
from .failure import Failure
from .options import EPILOG, as_json, of_whom, on_database
from .target import Target


@click.group(epilog=EPILOG)
def tokens() -> None:
    """Issue, revoke and list one-time tokens."""


@tokens.command(epilog=EPILOG)
@click.argument("scope")
@of_whom("--subject", help="Whom the token is for; only they can redeem it.")
@click.option("--ttl", type=text.duration, default="30m", show_default=True, metavar="TIME",
              help="How long it can be redeemed: 90s, 30m, 1d.")  # fmt: skip
@on_database
def issue(target: Target, scope: str, subject: str | None, ttl: timedelta) -> None:
    """Print a new token. It is stored nowhere: only its hash is, so it is never shown again."""
    click.echo(target.keys().tokens(scope, ttl=ttl).issue(subject=subject))


@tokens.command(epilog=EPILOG, context_settings={"ignore_unknown_options": True})  # a token may begin with a dash
@click.argument("scope")
@click.argument("token")
@on_database
def revoke(target: Target, scope: str, token: str) -> None:
    """Remove a token, used or not; exit code 1 if there is none in this scope."""
    if not _tokens(target, scope).revoke(token):
        raise Failure(f"there is no such token in the scope {scope}, in {target.place}")
    click.echo(f"revoked: removed from {target.place}")


@tokens.command(epilog=EPILOG)
@click.argument("scope")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many.")
@as_json
@on_database
def ls(target: Target, scope: str, limit: int, as_json: bool) -> None:
    """List the newest tokens of a scope, issued and spent; the tenant column is the subject."""
    text.show(_tokens(target, scope).records(limit=limit), as_json, f"no such tokens in {target.place}")


def _tokens(target: Target, scope: str) -> Tokens:
    # Of tokens that are there already, whose ttl was said when they were issued.
    return target.keys().tokens(scope, ttl=timedelta(seconds=1))
