"""Bad input: a clear error that names the cure, before anything runs, with nothing written and nothing lost."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

import idemtable
from idemtable import (
    FingerprintMismatchError,
    IdemTable,
    InProgressError,
    InvalidKeyError,
    MissingKeyError,
    MissingTenantError,
    ResultNotSerializableError,
    ResultTooLargeError,
    ResultUnreadableError,
    SchemaError,
    SessionNotUsableError,
)
from tests.support.database import Database, Effect, effect


class Shop:
    """A function under every form of the API, what ran, and what stands in the database."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.ran: list[Any] = []
        self.sent: list[str] = []

        @db.idem.transactional("shop", key="key", payload=("amount",))
        def call(session: Any, key: Any, amount: int = 1) -> int:
            self.ran.append(key)
            return effect(session, "effect", amount)

        self.call = call

    def every_form(self, key: Any) -> Iterator[Any]:
        idem = self.db.idem

        def joined() -> None:
            with self.db.session() as held:
                self.call.join(held.session, key)

        def block() -> None:
            with idem.transaction("shop", key) as claim:
                self.ran.append(claim)

        def claimed() -> None:
            with self.db.session() as held, idem.claim(held.session, "shop", key) as claim:
                self.ran.append(claim)

        yield lambda: self.call(key)
        yield lambda: self.call.outcome(key)
        yield joined
        yield block
        yield claimed
        yield lambda: idem.get("shop", key)
        yield lambda: idem.forget("shop", key)

    def refuses(self, key: Any, error: type[Exception], match: str) -> None:
        """Every form refuses the key with this error, before a statement is sent."""
        engine = getattr(self.db.engine, "sync_engine", self.db.engine)

        def listen(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            self.sent.append(statement)

        sa.event.listen(engine, "before_cursor_execute", listen)
        try:
            for form in self.every_form(key):
                with pytest.raises(error, match=match) as caught:
                    form()
                if isinstance(key, str) and key.strip() and len(key) < 256:
                    assert key not in str(caught.value)
                assert isinstance(caught.value, ValueError)
                assert caught.value.http_status == 400  # type: ignore[attr-defined]
        finally:
            sa.event.remove(engine, "before_cursor_execute", listen)
        assert self.sent == []
        self.is_untouched()

    def is_untouched(self) -> None:
        assert self.ran == []
        assert (self.db.effects(), self.db.rows()) == ([], [])


@pytest.fixture
def shop(db: Database) -> Shop:
    return Shop(db)


def test_01_no_key(shop: Shop) -> None:
    with pytest.raises(TypeError, match="key"):
        shop.call()
    shop.refuses(None, MissingKeyError, "pass one")


def test_02_an_empty_key_or_white_space_alone(shop: Shop) -> None:
    for key in ["", " ", "\t\n", "\u3000"]:
        shop.refuses(key, InvalidKeyError, "empty or white space")


def test_07_a_key_that_is_too_long(shop: Shop) -> None:
    for key in ["x" * 256, "é" * 128, "x" * 10_000_000]:
        shop.refuses(key, InvalidKeyError, "at most 255")


def test_07_a_key_of_exactly_the_longest_length_is_a_key(shop: Shop) -> None:
    for key in ["x" * 255, "é" * 127, "\U0001f375" * 63]:
        assert shop.call(key) == shop.call(key)
        assert shop.db.idem.get("shop", key).key == key


def test_08_control_characters(shop: Shop) -> None:
    for key in ["a\x00b", "a\rb", "a\nb", "a\x7f", "\x1b[31m", "a\x85b"]:
        shop.refuses(key, InvalidKeyError, "control character")


def test_09_a_lone_surrogate(shop: Shop) -> None:
    for key in ["a\ud800", "\udfff"]:
        shop.refuses(key, InvalidKeyError, "surrogate")


def test_10_composed_and_decomposed_letters_are_two_keys(shop: Shop) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert shop.call(composed) != shop.call(decomposed)
    assert shop.call.outcome(composed).replayed
    assert shop.ran == [composed, decomposed]
    assert sorted(row.key for row in shop.db.rows()) == sorted([composed, decomposed])


def test_11_case_blanks_and_accents_make_another_key(shop: Shop) -> None:
    keys = ["Key", "key", "key ", " key", "Ábc", "Abc", "abc", "ss", "ß"]
    results = [shop.call(key) for key in keys]
    assert len(set(results)) == len(keys)
    assert [shop.call(key) for key in keys] == results
    assert shop.ran == keys
    assert {row.key for row in shop.db.rows()} == set(keys)


def test_12_a_key_of_another_type(shop: Shop) -> None:
    for key in [1, 1.0, True, b"x", ["a"], object()]:
        shop.refuses(key, InvalidKeyError, r"must be a str or a uuid\.UUID, not ")


def test_12_a_uuid_is_its_canonical_text(shop: Shop) -> None:
    id = UUID("{12345678-1234-5678-1234-567812345678}".upper())
    shop.call(id)
    assert shop.db.rows()[0].key == "12345678-1234-5678-1234-567812345678"


def test_13_a_separator_in_scope_or_key_moves_nothing(shop: Shop) -> None:
    idem = shop.db.idem
    for scope, key, tenant in (
        ("a:b", "c", None),
        ("a", "b:c", None),
        ("a", "c", "b"),
        ("b", "c", "a"),
        ("c", "a", "b"),
    ):
        with idem.transaction(scope, key, tenant=tenant) as claim:
            assert not claim.replayed
    assert len(shop.db.rows()) == 5


@pytest.mark.parametrize("tenant", [None, ""], ids=repr)
def test_14_a_tenant_that_nobody_is(db: Database, tenant: Any) -> None:
    runs = []

    @db.idem.transactional("shop", key="key", tenant="tenant")
    def call(session: Any, key: str, tenant: Any) -> None:
        runs.append(key)

    with pytest.raises(MissingTenantError, match="leave tenant= out"):
        call("k", tenant)
    assert runs == []
    assert db.rows() == []


def test_15_the_same_key_with_another_payload(shop: Shop) -> None:
    first = shop.call("k", 1)
    before = shop.db.rows()
    with pytest.raises(FingerprintMismatchError, match="new key") as caught:
        shop.call("k", 2)
    with shop.db.session() as held:
        with pytest.raises(FingerprintMismatchError):
            shop.call.join(held.session, "k", 2)
        held.commit()

    assert caught.value.http_status == 422
    assert caught.value.scope == "shop"
    assert shop.ran == ["k"]
    assert shop.db.rows() == before
    assert len(shop.db.effects()) == 1
    assert shop.call("k", 1) == first


def test_17_the_same_key_in_another_scope(shop: Shop) -> None:
    shop.call("k", 1)
    with shop.db.idem.transaction("another", "k", payload=2) as claim:
        assert not claim.replayed
    assert len(shop.db.rows()) == 2


def test_18_the_same_key_while_the_first_still_runs(shop: Shop) -> None:
    with shop.db.session() as held:
        first = shop.call.join(held.session, "k")
        with (
            pytest.raises(InProgressError, match="try again") as caught,
            shop.db.idem.transaction("shop", "k", wait=timedelta(0)),
        ):
            shop.ran.append("second")
        with (
            shop.db.session() as other,
            pytest.raises(InProgressError),
            shop.db.idem.claim(other.session, "shop", "k", wait=timedelta(0)),
        ):
            shop.ran.append("third")
        held.commit()

    assert caught.value.retry_after == 1.0
    assert caught.value.http_status == 409
    assert shop.ran == ["k"]
    assert shop.call("k") == first


def test_19_a_function_that_raises(db: Database) -> None:
    runs = []
    error = LookupError("as it was")
    errors: list[Exception] = [error]

    @db.idem.transactional("shop", key="key")
    def call(session: Any, key: str) -> int:
        runs.append(key)
        number = effect(session, key)
        if errors:
            raise errors.pop()
        return number

    with pytest.raises(LookupError) as caught:
        call("k")
    assert caught.value is error
    assert (db.effects(), db.rows()) == ([], [])
    call("k")
    assert runs == ["k", "k"]
    assert db.effects() == ["k"]


@pytest.mark.parametrize(
    "make", [lambda: {1}, lambda: (n for n in "a"), lambda: math.nan, Effect, io.BytesIO, object],
    ids=["set", "generator", "NaN", "ORM object", "open stream", "object"],
)  # fmt: skip
def test_21_a_result_that_cannot_be_stored(db: Database, make: Any) -> None:
    runs = []

    @db.idem.transactional("shop", key="key")
    def call(session: Any, key: str):  # type: ignore[no-untyped-def]
        runs.append(key)
        effect(session, key)
        return make()

    for _ in range(2):
        with pytest.raises(ResultNotSerializableError, match="returns="):
            call("k")
        assert (db.effects(), db.rows()) == ([], [])
    assert runs == ["k", "k"]


def test_22_a_result_that_is_too_large(db: Database) -> None:
    @db.idem.transactional("shop", key="key")
    def call(session: Any, key: str, size: int) -> str:
        effect(session, key)
        return "x" * size

    with pytest.raises(ResultTooLargeError, match="max_result_bytes") as caught:
        call("k", 262_143)
    assert (caught.value.size, caught.value.limit) == (262_145, 262_144)
    assert (db.effects(), db.rows()) == ([], [])
    call("k", 262_142)
    assert db.effects() == ["k"]


@dataclass
class Old:
    a: int


@dataclass
class New:
    b: int


def test_23_a_stored_row_that_cannot_be_read(db: Database) -> None:
    runs = []

    def old(session: Any, key: str) -> Any:
        runs.append(key)
        effect(session, key)
        return Old(1)

    db.idem.transactional("shop", key="key", returns=Old)(old)("k")
    before = db.rows()
    changed = db.idem.transactional("shop", key="key", returns=New)(old)
    for _ in range(2):
        with pytest.raises(ResultUnreadableError, match="forget"):
            changed("k")
    db.execute("UPDATE idemtable SET codec = 'gone'")
    with pytest.raises(ResultUnreadableError, match="no codec named 'gone'"):
        db.idem.transactional("shop", key="key", returns=Old)(old)("k")
    assert runs == ["k"]
    assert db.effects() == ["k"]
    assert [row.result for row in db.rows()] == [row.result for row in before]


OUT_OF_RANGE: dict[str, list[Any]] = {
    "ttl": [timedelta(0), timedelta(-1), timedelta.max, timedelta(days=3651), 60, math.nan],
    "wait": [timedelta(-1), timedelta.max, 5, math.inf],
    "attempts": [0, -1, 1.5, True, None],
    "max_result_bytes": [0, -1, 1.5, True, None],
    "table": ['x"; drop table y; --', "x" * 49, "", "Ünï", "1a", "a b", "a.b", "a\n", None, 5],
    "schema": ['x"; drop table y; --', "x" * 64, "", "Ünï", 5],
    "codec": ["json", object()],
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_24_settings_out_of_range(db: Database, name: str) -> None:
    for value in OUT_OF_RANGE[name]:
        with pytest.raises((ValueError, TypeError), match=name):
            db.table(**{name: value})
        if name in ("ttl", "wait"):
            with pytest.raises((ValueError, TypeError), match=name):
                db.idem.transactional("shop", key="key", **{name: value})(lambda session, key: None)
            with pytest.raises((ValueError, TypeError), match=name):
                db.idem.transaction("shop", "k", **{name: value})
    assert db.rows() == []


def test_24_a_scope_that_is_no_name(db: Database) -> None:
    wrong: list[Any] = ["", " ", "x" * 256, "a\nb", "a\ud800", 5, None]
    for scope in wrong:
        with pytest.raises((ValueError, TypeError), match="scope"):
            db.idem.transactional(scope, key="key")(lambda session, key: None)
        for use in (db.idem.transaction, db.idem.get, db.idem.forget):
            with pytest.raises((ValueError, TypeError), match="scope"):
                use(scope, "k")


def test_24_an_unknown_database() -> None:
    from sqlalchemy.dialects import oracle

    from idemtable.dialects import find

    with pytest.raises(ValueError, match="knows mariadb, mysql, postgresql, sqlite, not oracle"):
        find(oracle.dialect(), "idemtable", None)


def test_25_a_failed_session(shop: Shop) -> None:
    def fail(session: Any) -> None:
        session.add(Effect(name=None))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()

    with shop.db.session() as held:
        held.run(fail)
        with pytest.raises(SessionNotUsableError, match="roll it back"):
            shop.call.join(held.session, "k")
    shop.is_untouched()


def test_25_no_session_at_all(db: Database) -> None:
    """A block whose session got lost would commit its key by itself, and not with the caller's writes."""
    for none in (None, db.engine):
        with pytest.raises(TypeError, match="expected the transaction's"), db.idem.claim(none, "shop", "k"):
            raise AssertionError("the block ran")
    assert db.rows() == []


def test_25_a_session_in_autocommit(shop: Shop) -> None:
    shop.db.needs_autocommit()
    with shop.db.other_engine(isolation_level="AUTOCOMMIT") as engine:
        if shop.db.kind == "sqlite":
            idemtable.configure_sqlite(engine)
        with (
            shop.db.session(engine) as held,
            pytest.raises(SessionNotUsableError, match="without that isolation level"),
        ):
            shop.call.join(held.session, "k")
    shop.is_untouched()


def test_25_a_read_only_server(shop: Shop) -> None:
    """As a replica answers: PostgreSQL 25006, MariaDB and MySQL 1792, SQLite's READONLY."""
    db = shop.db
    sql = {
        "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "mariadb": "SET SESSION TRANSACTION READ ONLY",
        "mysql": "SET SESSION TRANSACTION READ ONLY",
        "sqlite": "PRAGMA query_only = ON",
    }[db.kind]
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        idem = db.table(engine)

        def read_only(connection: Any, *_: Any) -> None:
            cursor = connection.cursor()
            cursor.execute(sql)
            cursor.close()
            connection.commit()

        sa.event.listen(getattr(engine, "sync_engine", engine), "connect", read_only)

        @idem.transactional("shop", key="key")
        def call(session: Any, key: str) -> None:
            shop.ran.append(key)

        with pytest.raises(SessionNotUsableError, match="need the primary"):
            call("k")
        with db.session(engine) as held, pytest.raises(SessionNotUsableError, match="need the primary"):
            call.join(held.session, "k")
        with db.deleting(), pytest.raises(SessionNotUsableError, match="need the primary"):
            idem.forget("shop", "k")
    shop.is_untouched()


def test_25_a_missing_table(shop: Shop) -> None:
    idem = shop.db.table(table="missing")

    @idem.transactional("shop", key="key")
    def call(session: Any, key: str) -> None:
        shop.ran.append(key)

    with pytest.raises(SchemaError, match="idemtable db upgrade --table missing"):
        call("k")
    shop.is_untouched()


def test_25_a_table_with_a_column_missing(shop: Shop) -> None:
    db = shop.db
    db.execute("CREATE TABLE outdated (id integer PRIMARY KEY, scope integer)")
    idem = db.table(table="outdated")
    try:

        @idem.transactional("shop", key="key")
        def call(session: Any, key: str) -> None:
            shop.ran.append(key)

        with pytest.raises(SchemaError, match="idemtable db upgrade --table outdated"):
            call("k")
        with pytest.raises(SchemaError):
            idem.check_schema()
    finally:
        db.execute("DROP TABLE outdated")
    shop.is_untouched()


def test_25_a_server_that_nobody_answers_for_is_the_drivers_own_error() -> None:
    engine = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    idem = IdemTable(engine, attempts=1)
    ran = []

    @idem.transactional("shop", key="key")
    def call(session: Any, key: str) -> None:
        ran.append(key)

    with pytest.raises(sa.exc.OperationalError):
        call("k")
    assert ran == []
