"""S4: a one-time token cannot be guessed, and whoever has a copy of the table has no token that works.

S5, that no two uses of one token have two effects, is in ``tests/tokens/test_race.py``.
"""

from __future__ import annotations

import base64
import random
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from idemtable import UnknownTokenError
from idemtable.tokens import redemption
from tests.support.database import Database
from tests.support.tokens import desk

DRAWN = 4_000
BITS = 256


def stuck(draw: Callable[[], str]) -> list[int]:
    """The bits of a token that are not as often set as not, or not 256: six standard deviations off is no chance.

    The first character is never a dash, so the first five bits are a little less often set together.
    """
    numbers = [int.from_bytes(base64.urlsafe_b64decode(draw() + "=")) for _ in range(DRAWN)]
    limit = 6 * (DRAWN**0.5) / 2 + DRAWN / 64
    return [bit for bit in range(BITS) if abs(sum(number >> bit & 1 for number in numbers) - DRAWN / 2) > limit]


def test_every_one_of_256_bits_is_random() -> None:
    assert stuck(redemption.new_token) == []


def test_the_check_finds_the_bits_that_a_uuid_does_not_have() -> None:
    def of_uuids() -> str:
        return base64.urlsafe_b64encode(uuid4().bytes + uuid4().bytes).decode().rstrip("=")

    assert len(stuck(of_uuids)) == 12  # two versions of four bits, two variants of two


def test_tokens_come_from_the_system_and_not_from_a_generator_that_can_be_seeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    draw = secrets.token_urlsafe

    def counted(size: int) -> str:
        asked.append(size)
        return draw(size)

    monkeypatch.setattr(secrets, "token_urlsafe", counted)
    random.seed(7)
    first = redemption.new_token()
    random.seed(7)
    assert redemption.new_token() != first
    assert set(asked) == {32}


def test_nothing_in_a_copy_of_the_table_can_be_redeemed(db: Database) -> None:
    tokens = desk(db, "security.checkout", ttl=timedelta(minutes=5))
    redeemed: list[str] = []

    @tokens.transactional(token="token", subject="user")
    def checkout(session: Any, token: str, user: str) -> None:
        redeemed.append(token)

    issued = tokens.issue("user:7")
    (row,) = db.rows()
    for value in row:
        raw = value.bytes if isinstance(value, UUID) else value if isinstance(value, bytes) else str(value).encode()
        tries = [raw.hex(), base64.urlsafe_b64encode(raw).decode().rstrip("="), raw.decode(errors="replace")]
        tries += [base64.urlsafe_b64encode((raw * 32)[:32]).decode().rstrip("=")]
        for guess in tries:
            with pytest.raises(UnknownTokenError):
                checkout(guess, "user:7")
    assert redeemed == []
    checkout(issued, "user:7")
    assert redeemed == [issued]
