"""Payment requests as a retrying client sends them, recorded in a file of JSON lines; the same seed, the same file.

Each line is one request as it arrived: when, with which key, from which account, how much. There are three days:

1. *last week*: requests whose keys the server remembers for a moment only;
2. *today*: single requests, retries some time later, bursts of one key at the same time, and requests during which the
   payment gateway is away the first time;
3. *tonight*: late retries of today's requests, today's keys with another amount, and some of last week's keys, which
   have expired: those are new payments, sent several times at once.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

DAYS: Final = ("last week", "today", "tonight")

_ACCOUNTS: Final = 40
"""Few enough that the same rows are written by several workers at once."""
_DAY: Final = datetime(2026, 3, 9, 9, tzinfo=UTC)
_STARTS: Final = (_DAY - timedelta(days=7), _DAY, _DAY + timedelta(hours=12))


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the file."""

    sent: str
    day: int
    key: str
    account: str
    amount: int
    """Cents."""
    gateway: str = "up"
    """``down``: it cannot be reached the first time."""


def record(file: Path, count: int, seed: int) -> None:
    """Write a recording of `count` requests."""
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(asdict(request)) + "\n" for request in requests(count, seed))


def read(file: Path) -> list[Request]:
    """Read a recording."""
    with file.open(encoding="utf-8") as lines:
        return [Request(**json.loads(line)) for line in lines]


def requests(count: int, seed: int) -> Iterable[Request]:
    """Make up requests, in the order in which they arrive."""
    chance = random.Random(seed)  # noqa: S311 - to repeat, not to keep secret
    old, late = max(count * 2 // 100, 8), count * 20 // 100
    yield from (last_week := _days_requests(chance, 1, old, "old", ()))
    yield from (today := _days_requests(chance, 2, count - old - late, "pay", _REPEATS))
    yield from _tonights(chance, last_week, today, late)


# How many copies of a request come, how many seconds after the first: a client that gave up waiting sends again some
# time later; one that is broken, or a double click, sends several at once.
_REPEATS: Final = (((1, 2), 60.0), ((2, 8), 0.001), ((1, 1), 5.0))


def _days_requests(
    chance: random.Random, day: int, count: int, prefix: str, repeats: tuple[tuple[tuple[int, int], float], ...]
) -> list[Request]:
    made: list[tuple[float, Request]] = []
    time = 0.0
    while len(made) < count:
        time += chance.expovariate(2)
        kind = chance.random()
        gateway = "down" if repeats and kind > 0.94 else "up"
        key = f"{prefix}-{chance.getrandbits(48):012x}"
        account, amount = f"account-{chance.randrange(_ACCOUNTS):02}", chance.randrange(100, 50_000)
        after = [0.0]
        if repeats and kind < 0.5:
            (low, high), spread = chance.choice(repeats)
            after += [chance.random() * spread for _ in range(chance.randint(low, high))]
        for later in after[: count - len(made)]:
            made.append((time + later, Request(_sent(day, time + later), day, key, account, amount, gateway)))
    return [request for _, request in sorted(made, key=lambda pair: pair[0])]


def _tonights(chance: random.Random, last_week: list[Request], today: list[Request], count: int) -> Iterable[Request]:
    expired = last_week[: len(last_week) // 2]
    again = [old for old in expired for _ in range(3)][:count]
    keys = list({request.key: request for request in today}.values())
    others = [chance.choice(keys) for _ in range(count - len(again))]
    arriving = [(old, old.amount + 1) for old in again]
    arriving += [(one, one.amount + (chance.randrange(1, 999) if chance.random() < 0.35 else 0)) for one in others]
    # The copies of an expired key stay together, so that several workers find it expired at once.
    for number, (one, amount) in enumerate(arriving):
        yield Request(_sent(3, number * 0.4), 3, one.key, one.account, amount)


def _sent(day: int, seconds: float) -> str:
    return (_STARTS[day - 1] + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
