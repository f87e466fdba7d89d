"""The seal lies under results and remembered exceptions, whatever the codec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from idemtable import IdemTable, ResultNotSerializableError, ResultUnreadableError
from idemtable.codecs import JSON, SealContext
from tests.support.database import INNODB, Database, effect

SECRET = "the secret of 4711"


class Declined(Exception):
    pass


class Mask:
    """Not a cipher: the context in front, as an AEAD would bind it, and every bit turned over."""

    def __init__(self) -> None:
        self.contexts: list[SealContext] = []

    def seal(self, data: bytes, context: SealContext) -> bytes:
        self.contexts.append(context)
        return bytes(byte ^ 0xFF for byte in bytes([len(context)]) + bytes(context) + data)

    def open(self, data: bytes, context: SealContext) -> bytes:
        plain = bytes(byte ^ 0xFF for byte in data)
        if plain[1 : plain[0] + 1] != context:
            raise ValueError("sealed for another row")
        return plain[plain[0] + 1 :]


class Wrapped:
    """A codec round another one, whose carriers it passes on."""

    name = "wrapped"

    def carrier(self, returns: Any) -> Any:
        return JSON.carrier(returns)


def functions(db: Database, **settings: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    idem = db.table(**settings)

    @idem.transactional("give", key="key", tenant="tenant")
    def give(session: Any, key: str, tenant: str) -> dict[str, str]:
        effect(session, key)
        return {"said": SECRET}

    @idem.transactional("refuse", key="key", remember=(Declined,))
    def refuse(session: Any, key: str) -> None:
        raise Declined(SECRET)

    return give, refuse


@pytest.mark.parametrize("codec", [None, Wrapped()])
def test_nothing_of_a_result_or_a_remembered_exception_is_in_the_table(db: Database, codec: Any) -> None:
    seal = Mask()
    give, refuse = functions(db, seal=seal, codec=codec)
    for replayed in (False, True):
        outcome = give.outcome("k", "acme")  # type: ignore[attr-defined]
        assert (outcome.value, outcome.replayed) == ({"said": SECRET}, replayed)
        with pytest.raises(Declined, match=SECRET):
            refuse("k")
    results = [bytes(row.result) for row in db.rows()]
    assert len(results) == 2
    assert not any(word.encode() in result for result in results for word in (SECRET, "Declined", "said"))
    assert [(context.tenant, context.scope) for context in seal.contexts] == [("acme", "give"), (None, "refuse")]


def test_a_result_moved_into_another_row_does_not_open_and_does_not_run_again(db: Database) -> None:
    give, _ = functions(db, seal=Mask())
    give("a", "acme")
    give("b", "acme")
    key = "`key`" if db.kind in INNODB else "key"
    moved = db.execute(f"SELECT result FROM idemtable WHERE {key} = 'a'")[0][0]
    db.execute(f"UPDATE idemtable SET result = :moved WHERE {key} = 'b'", moved=moved)
    with pytest.raises(ResultUnreadableError, match="seal"):
        give("b", "acme")
    assert db.effects() == ["a", "b"]
    assert give("a", "acme") == {"said": SECRET}


@pytest.mark.parametrize("made", [None, "text", bytearray(b"bytes")], ids=["nothing", "str", "bytearray"])
def test_a_seal_that_makes_no_bytes_is_refused_on_the_first_call(db: Database, made: Any) -> None:
    class Broken(Mask):
        def seal(self, data: bytes, context: SealContext) -> bytes:
            return made  # type: ignore[no-any-return]

    give, refuse = functions(db, seal=Broken())
    for call in (lambda: give("k", "acme"), lambda: refuse("k")):
        with pytest.raises(ResultNotSerializableError, match=rf"Broken.seal\(\) has returned a {type(made).__name__}"):
            call()
    assert (db.effects(), db.rows()) == ([], [])


def test_without_the_seal_the_row_stays_and_nothing_runs(db: Database) -> None:
    give, refuse = functions(db, seal=Mask())
    give("k", "acme")
    with pytest.raises(Declined):
        refuse("k")
    rows = db.rows()
    give, refuse = functions(db)
    for call in (lambda: give("k", "acme"), lambda: refuse("k")):
        with pytest.raises(ResultUnreadableError):
            call()
    assert (db.rows(), db.effects()) == (rows, ["k"])


def test_tokens_blocks_and_joined_calls_are_sealed_too(db: Database) -> None:
    idem = db.table(seal=Mask())
    with idem.transaction("pay", "k") as claim:
        claim.result = SECRET
    with db.session() as mine:
        with idem.claim(mine.session, "joined", "k") as claim:
            claim.result = SECRET
        mine.commit()
    for scope in ("pay", "joined"):
        with idem.transaction(scope, "k") as claim:
            assert (claim.replayed, claim.result) == (True, SECRET)
    assert not any(SECRET.encode() in bytes(row.result) for row in db.rows())


def test_what_is_no_seal_is_refused(sync_db: Database) -> None:
    with pytest.raises(TypeError, match="seal= takes an object"):
        IdemTable(sync_db.engine, seal="secret")  # type: ignore[arg-type]


def test_a_stored_result_is_looked_at_through_the_seal(db: Database) -> None:
    give, _ = functions(db, seal=Mask())
    give("k", "t")
    assert SECRET in db.table(seal=Mask()).stored_result("give", "k", tenant="t").decode()
    assert SECRET.encode() not in db.idem.stored_result("give", "k", tenant="t")

    class Other(Mask):
        def open(self, data: bytes, context: SealContext) -> bytes:
            raise ValueError("another key")

    with pytest.raises(ResultUnreadableError, match="seal"):
        db.table(seal=Other()).stored_result("give", "k", tenant="t")
