"""Keys that a database could take for one another, and its clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy.orm import Session

from ..dialects.catalogue import CHARSET
from ..model import Record
from .ground import SCOPE
from .race import Check, Race, named
from .stage import Stage

TRAPS: Final = (
    ("Key", "key", "KEY"),  # case
    ("key ", " key", "key  "),  # blanks at either end
    ("caf\u00e9", "cafe\u0301", "cafe"),  # composed, in two pieces, without
    ("stra\u00dfe", "strasse", "STRASSE"),
    ("I", "i", "\u0130", "\u0131"),  # Turkish
    ("K1", "\u212a1"),  # the sign for kelvin
    ("\uff21\uff22", "AB"),  # full width
    ("zero\u200bwidth", "zerowidth"),
    ("\U0001f600", "\U0001f4a3"),  # two emoji, which some collations take for equal
    ("1", "01", "1.0", "1e0"),  # numbers
    ("a%b", "a_b", "a\\b", "a'b", 'a"b', "a:b", "a?b"),
    ("x" * 254 + "a", "x" * 254 + "b"),  # what differs at the end alone
    ("\u00fc" * 127, "\u00fc" * 126 + "u"),
)
"""Groups of keys that are different and look alike to somebody."""
_LATER: Final = timedelta(milliseconds=300)
_PATIENCE: Final = 10.0
_TICK: Final = timedelta(milliseconds=100)
"""What a clock may go back: less than that is how it is kept right."""

_CLOCKS: Final = (
    "two connections lead to servers whose clocks differ: keys expire early or late. Have the servers keep time (NTP)"
)


def collations(stage: Stage) -> Check:
    """Use keys, tenants and scopes that look alike; each is its own."""
    check = Check("collations", "keys, tenants and scopes that differ in case, blanks, accents, width or the last byte")
    idem = stage.ways[0].idem
    names = [name for group in TRAPS for name in group]
    for what in ("key", "tenant", "scope"):
        for name in names:
            _use(stage, check, what, name)
    for name in names:
        _search(stage, check, "tenant", partial(idem.records, tenant=name))
        _search(stage, check, "scope", partial(idem.records, name))
    check.seen = f"{len(names)} names, each its own, and read back as it was written"
    return check


def _refused(stage: Stage, check: Check, what: str, error: Exception) -> None:
    check.blame(f"{what} was refused: {named(error)}")
    if (cure := stage.ground.cure(error)) is not None:
        check.because(cure)


def _search(stage: Stage, check: Check, what: str, look: Callable[[], list[Record]]) -> None:
    check.times += 1
    try:
        found = len(look())
    except Exception as error:
        _refused(stage, check, f"a search for a {what}", error)
    else:
        if found != 1:
            check.blame(f"a search for a {what} found {found} records instead of its one")


def _use(stage: Stage, check: Check, what: str, name: str) -> None:
    idem = stage.ways[0].idem
    called = {"scope": f"{SCOPE}.traps", "key": "the key", "tenant": None} | {what: name}
    scope, key, tenant = str(called["scope"]), str(called["key"]), called["tenant"]
    whose: dict[str, Any] = {} if tenant is None else {"tenant": lambda key: tenant}
    call = idem.transactional(scope, key="key", payload=None, share_scope=True, **whose)(_gives_nothing)
    check.times += 1
    try:
        if call.outcome(key).replayed:
            check.blame(f"a {what} was taken for another one that looks like it")
            return
        record = idem.get(scope, key, tenant=tenant)
    except Exception as error:  # a driver's own too: it may not be able to write the name at all
        _refused(stage, check, f"a {what}", error)
    else:
        if record is None or getattr(record, what) != name:
            check.blame(f"a {what} was read back otherwise than it was written")
            check.because(CHARSET)


def _gives_nothing(session: Session, key: str) -> None:
    """Have no effect: that the key is taken is all that is looked at."""


def clock(stage: Stage) -> Check:
    """See that the database's clock goes forward, and that a key lives as long as it was told."""
    check = Check("clock", f"the database's clock is read over two connections; a key lives for {_ms(_LATER)}")
    records, engine = stage.ground.records, stage.callers.engine
    with engine.connect() as one, engine.connect() as other:
        last, back, skew, width = datetime.min.replace(tzinfo=UTC), timedelta(), timedelta(), timedelta.max
        for number in range(40):
            before = datetime.now(UTC)
            now = records.now(other if number % 2 else one)
            after = datetime.now(UTC)
            back = max(back, last - now)
            last, check.times = now, check.times + 1
            if after - before < width:
                skew, width = now - (before + (after - before) / 2), after - before
    if back > _TICK:
        check.blame(f"the clock went back by {_ms(back)}")
        check.because(_CLOCKS)
    _lives(stage, check)
    check.seen = (
        f"forward; {_ms(abs(skew))} {'ahead of' if skew > timedelta() else 'behind'} this machine's; it expired in time"
    )
    return check


def _lives(stage: Stage, check: Check) -> None:
    """Use a key until it has expired, and hold each answer against the clock that counts."""
    records = stage.ground.records
    for way in stage.ways:
        race, key = Race(f"a key that expires, {way.name}", ["caller 1"]), stage.key("clock")
        call = stage.protected(way.idem, stage.takes_effect, ttl=_LATER)
        first = call(key, race, 0)
        expires = None if (record := way.idem.get(SCOPE, key)) is None else record.expires_at
        until = time.monotonic() + _PATIENCE
        while expires is not None and time.monotonic() < until:
            with stage.callers.engine.connect() as connection:
                before = records.now(connection)
            outcome = call(key, race, 0)
            with stage.callers.engine.connect() as connection:
                after = records.now(connection)
            if outcome.replayed and before >= expires + _TICK:
                check.blame("a key was answered after it had expired")
            if outcome.value != first.value and after < expires - _TICK:
                check.blame("a key ran again before it had expired")
            if outcome.value != first.value:
                break
            stage.callers.pause(0.03)  # between looks: only the database's clock says when it is time
        else:
            check.blame("a key did not expire")


def _ms(time: timedelta) -> str:
    seconds = time.total_seconds()
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:,.0f} s"
