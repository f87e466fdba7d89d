"""S9 and S10: with a seal nothing that a function gave is in the table, and what was moved or changed does not open."""

from __future__ import annotations

import hashlib
import hmac
import os
from contextlib import suppress
from typing import Any

import pytest

from idemtable import ResultUnreadableError
from idemtable.codecs import SealContext
from tests.support.database import Database, effect

SECRET = "the account 4711-0815"
KEY = b"k" * 32


class Sealed:
    """Encrypted and authenticated with the row's name, from what Python brings; in earnest it is AES-GCM."""

    def seal(self, data: bytes, context: SealContext) -> bytes:
        nonce = os.urandom(16)
        hidden = self._masked(data, nonce)
        return nonce + hidden + self._tag(nonce + hidden, context)

    def open(self, data: bytes, context: SealContext) -> bytes:
        hidden, tag = data[:-32], data[-32:]
        if not hmac.compare_digest(tag, self._tag(hidden, context)):
            raise ValueError("not sealed for this row")
        return self._masked(hidden[16:], hidden[:16])

    def _masked(self, data: bytes, nonce: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(data, hashlib.shake_256(KEY + nonce).digest(len(data)), strict=True))

    def _tag(self, hidden: bytes, context: SealContext) -> bytes:
        return hmac.digest(KEY, len(context).to_bytes(4) + context + hidden, "sha256")


class Unbound(Sealed):
    """A seal that forgets whose row it is."""

    def _tag(self, hidden: bytes, context: SealContext) -> bytes:
        return hmac.digest(KEY, hidden, "sha256")


ROWS = [("acme", "a"), ("acme", "b"), ("zeta", "a")]


def order_of(db: Database, seal: Any) -> Any:
    @db.table(seal=seal).transactional("security.sealed", key="key", tenant="tenant", share_scope=True)
    def order(session: Any, key: str, tenant: str) -> dict[str, str]:
        effect(session, key)
        return {"said": f"{SECRET} of {tenant}"}

    for tenant, key in ROWS:
        order(key, tenant)
    return order


def moved(db: Database, order: Any, key_column: str) -> int:
    """Put each row's result into each other row; count how often somebody got what was not theirs."""
    where = f"tenant = :tenant AND {key_column} = :key"
    stored = {
        row: db.execute(f"SELECT result FROM idemtable WHERE {where}", tenant=row[0], key=row[1])[0][0] for row in ROWS
    }
    read = 0
    for source in ROWS:
        for target in (row for row in ROWS if row != source):
            put = f"UPDATE idemtable SET result = :result WHERE {where}"
            db.execute(put, result=stored[source], tenant=target[0], key=target[1])
            with suppress(ResultUnreadableError):
                order(target[1], target[0])
                read += 1
            db.execute(put, result=stored[target], tenant=target[0], key=target[1])
    return read


def test_a_result_moved_to_any_other_row_does_not_open_and_nothing_runs(db: Database, key_column: str) -> None:
    order = order_of(db, Sealed())
    assert moved(db, order, key_column) == 0
    assert db.effects() == [key for _, key in ROWS]
    assert [order(key, tenant)["said"] for tenant, key in ROWS] == [f"{SECRET} of {tenant}" for tenant, _ in ROWS]


def test_the_check_finds_a_seal_that_is_not_bound_to_its_row(db: Database, key_column: str) -> None:
    assert moved(db, order_of(db, Unbound()), key_column) == 6


@pytest.mark.parametrize("change", ["codec = 'exception'", "status = 2", "result = result_of_nobody"])
def test_a_row_whose_codec_status_or_bytes_were_changed_does_not_open(db: Database, change: str) -> None:
    order = order_of(db, Sealed())
    if "nobody" in change:
        db.execute("UPDATE idemtable SET result = :result", result=os.urandom(80))
    else:
        db.execute(f"UPDATE idemtable SET {change}")
    for tenant, key in ROWS:
        with pytest.raises(ResultUnreadableError):
            order(key, tenant)
    assert db.effects() == [key for _, key in ROWS]


def test_a_copy_of_the_table_has_nothing_of_a_result_nor_with_the_keys_left_out_of_a_key(db: Database) -> None:
    @db.table(seal=Sealed(), store_keys=False).transactional("security.dumped", key="key", payload=("amount",))
    def order(session: Any, key: str, amount: int) -> dict[str, str]:
        return {"said": SECRET}

    def dumped() -> bytes:
        return b"\n".join(v if isinstance(v, bytes) else str(v).encode() for row in db.rows() for v in row)

    assert order("canary-of-a-key", 4_711) == order("canary-of-a-key", 4_711)
    for secret in (SECRET, "said", "canary-of-a-key"):
        assert secret.encode() not in dumped()
    db.sweep()

    @db.idem.transactional("security.open", key="key")
    def plain(session: Any, key: str) -> dict[str, str]:
        return {"said": SECRET}

    plain("canary-of-a-key")
    assert SECRET.encode() in dumped()  # so this is where it would be seen
