"""S1, by the database itself: under row-level security a session of one tenant has no other's row to see or to replay."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable.dialects.packet import Line
from idemtable.dialects.postgresql import PostgreSQL
from tests.support.backends import BACKENDS, db_of
from tests.support.database import effect
from tests.support.roles import HiredDatabase
from tests.support.tokens import desk

_scopes = count()
current: ContextVar[str] = ContextVar("current", default="")
REFUSED = "violates row-level security policy"


@pytest.fixture(params=[name for name, (where, _) in BACKENDS.items() if where.startswith("postgresql")])
def db(request: pytest.FixtureRequest) -> Iterator[HiredDatabase]:
    """A database whose table shows each tenant its own rows, to the application's user."""
    db = db_of(request.param, hired=True)
    assert isinstance(db, HiredDatabase)
    db.execute("ALTER TABLE idemtable ENABLE ROW LEVEL SECURITY")
    db.execute(
        f"CREATE POLICY own_rows ON idemtable TO {db.users['app']} USING (tenant = current_setting('app.tenant', true))"
    )
    db.execute(f"CREATE POLICY all_rows ON idemtable TO {db.users['purge']} USING (true)")
    try:
        yield db
    finally:
        for policy in ("own_rows", "all_rows"):
            db.execute(f"DROP POLICY {policy} ON idemtable")
        db.execute("ALTER TABLE idemtable DISABLE ROW LEVEL SECURITY")


def tell(connection: sa.Connection) -> None:
    connection.execute(sa.text("SELECT set_config('app.tenant', :tenant, true)"), {"tenant": current.get()})


@pytest.fixture
def engine(db: HiredDatabase) -> Iterator[Any]:
    """An engine that says at each BEGIN whose transaction it is, with one connection that all tenants share."""
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        sa.event.listen(getattr(engine, "sync_engine", engine), "begin", tell)
        yield engine


@contextmanager
def as_tenant(name: str) -> Iterator[None]:
    token = current.set(name)
    try:
        yield
    finally:
        current.reset(token)


def order_of(idem: Any, **options: Any) -> Any:
    @idem.transactional(f"rls.{next(_scopes)}", key="key", tenant="tenant", **options)
    def order(session: Any, key: str, tenant: str) -> str:
        effect(session, f"{key} for {tenant}")
        return f"the secret of {tenant}"

    return order


def seen(db: HiredDatabase, engine: Any) -> list[str]:
    """Whose rows there are, for whoever asks in SQL of their own."""
    with db.session(engine) as mine:
        return list(mine.run(lambda session: session.execute(sa.text("SELECT tenant FROM idemtable")).scalars()))


@pytest.mark.parametrize("options", [{}, {"lookaside": True}, {"deferred": True}])
def test_each_tenant_runs_once_replays_its_own_and_sees_no_other(
    db: HiredDatabase, engine: Any, options: dict[str, Any]
) -> None:
    order = order_of(db.table(engine), **options)
    for tenant in ("acme", "zeta"):
        with as_tenant(tenant):
            for replayed in (False, True):
                outcome = order.outcome("k", tenant)
                assert (outcome.value, outcome.replayed) == (f"the secret of {tenant}", replayed)
            assert seen(db, engine) == [tenant]
    assert seen(db, engine) == []
    assert db.effects() == ["k for acme", "k for zeta"]
    assert len(db.rows()) == 2


def test_a_call_for_a_tenant_that_is_not_the_sessions_runs_nothing_and_replays_nothing(
    db: HiredDatabase, engine: Any
) -> None:
    idem = db.table(engine)
    calls: list[Callable[[], Any]] = []
    for options in ({}, {"lookaside": True}, {"deferred": True}):
        order = order_of(idem, **options)
        with as_tenant("acme"):
            order("k", "acme")
        for key in ("k", "another"):
            calls.append(lambda order=order, key=key: order(key, "acme"))

    def block(key: str) -> None:
        with idem.transaction("rls.block", key, tenant="acme"):
            pass

    def batch(key: str) -> None:
        with db.session(engine) as mine:
            idem.claim_many(mine.session, "rls.batch", [key], tenant="acme")

    with as_tenant("acme"):
        block("k")
    calls += [lambda: block("k"), lambda: block("another"), lambda: batch("k")]
    effects, rows = db.effects(), db.rows()
    for tenant in ("zeta", ""):
        with as_tenant(tenant):
            for call in calls:
                with pytest.raises(sa.exc.DBAPIError, match=REFUSED) as caught:
                    call()
                assert "secret" not in str(caught.value)
    assert (db.effects(), db.rows()) == (effects, rows)


def test_no_verb_tells_one_tenant_of_another(db: HiredDatabase, engine: Any) -> None:
    idem = db.table(engine)
    with as_tenant("acme"):
        with idem.transaction("rls.look", "k", tenant="acme") as claim:
            claim.result = "secret"
        assert idem.stored_result("rls.look", "k", tenant="acme") == b'"secret"'
    with as_tenant("zeta"):
        assert idem.get("rls.look", "k", tenant="acme") is None
        assert idem.stored_result("rls.look", "k", tenant="acme") is None
        assert list(idem.records()) == []
        assert idem.stats().rows == 0


def test_what_is_expired_remembered_joined_or_one_of_many_is_its_tenants_too(db: HiredDatabase, engine: Any) -> None:
    idem = db.table(engine)

    class Declined(Exception):
        pass

    @idem.transactional(f"rls.{next(_scopes)}", key="key", tenant="tenant", remember=(Declined,))
    def pay(session: Any, key: str, tenant: str) -> None:
        raise Declined

    order, tokens = order_of(idem), desk(db, f"rls.{next(_scopes)}", table=idem)
    for tenant in ("acme", "zeta"):
        with as_tenant(tenant):
            for _ in range(2):
                with pytest.raises(Declined):
                    pay("k", tenant)
            assert order.outcome("k", tenant).replayed is False
            with db.session(engine) as mine:
                assert order.join(mine.session, "k", tenant) == f"the secret of {tenant}"
                assert order.join(mine.session, "j", tenant) == f"the secret of {tenant}"
                assert [flag.name for flag in idem.claim_many(mine.session, "rls.many", ["a"], tenant=tenant)] == [
                    "New"
                ]
                mine.commit()
            token = tokens.issue(subject=tenant)
            with db.session(engine) as mine:
                with tokens.redeem(mine.session, token, subject=tenant):
                    pass
                mine.commit()
            assert set(seen(db, engine)) == {tenant}
    db.expire()
    for tenant in ("acme", "zeta"):
        with as_tenant(tenant):
            assert [order.outcome("k", tenant).replayed for _ in range(2)] == [False, True]


def test_batches_of_two_tenants_are_committed_by_one_transaction(db: HiredDatabase, engine: Any) -> None:
    """At COMMIT the session is shown the second one's rows alone."""
    idem = db.table(engine)
    with db.session(engine) as mine:
        for tenant in ("acme", "zeta"):
            with as_tenant(tenant):
                mine.run(lambda session: tell(session.connection()))
                assert list(idem.unseen(mine.session, "rls.batch", ["a", "b"], key=str, tenant=tenant)) == ["a", "b"]
        mine.commit()
    assert len(db.rows()) == 4


# The other drivers send one statement after the other: what becomes of them is in the tests above.
@pytest.mark.parametrize("db", ["postgresql18", "postgresql18-async"], indirect=True)
def test_the_setting_comes_before_the_claim_also_where_claim_and_commit_travel_in_packets(
    db: HiredDatabase, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = getattr(engine, "sync_engine", engine)
    sent: list[str] = []
    send = Line._sent

    def spied(self: Line, connection: Any, part: Any, begin: bool, end: bytes | None) -> Any:
        sent.append(" ".join([part[0].text.split()[0], *([end.decode()] if end else [])]))
        return send(self, connection, part, begin, end)

    def told(connection: sa.Connection) -> None:
        sent.append("set_config")

    monkeypatch.setattr(Line, "_sent", spied)
    sa.event.listen(sync, "begin", told)
    order = order_of(db.table(engine))
    with as_tenant("acme"):
        order("k", "acme")
        order("k", "acme")
    assert sent == ["set_config", "INSERT", "INSERT COMMIT", "set_config", "INSERT", "SELECT ROLLBACK"]


def test_on_an_engine_that_does_not_say_whose_transaction_it_is_nothing_can_be_claimed(db: HiredDatabase) -> None:
    order = order_of(db.idem)
    with as_tenant("acme"), pytest.raises(sa.exc.DBAPIError, match=REFUSED):
        order("k", "acme")
    assert (db.effects(), db.rows()) == ([], [])


def test_a_function_that_changes_the_tenant_of_its_transaction_is_rolled_back(db: HiredDatabase, engine: Any) -> None:
    def work(session: Any, key: str, tenant: str) -> None:
        effect(session, key)
        session.execute(sa.text("SELECT set_config('app.tenant', 'zeta', true)"))

    order = db.table(engine).transactional(f"rls.{next(_scopes)}", key="key", tenant="tenant")(work)
    with as_tenant("acme"), pytest.raises(sa.exc.DBAPIError, match=REFUSED):
        order("k", "acme")
    assert (db.effects(), db.rows()) == ([], [])


@pytest.mark.parametrize("options", [{}, {"deferred": True}, {"remember": (LookupError,)}])
def test_a_policy_may_go_by_the_scope_too(db: HiredDatabase, engine: Any, options: dict[str, Any]) -> None:
    user = db.users["app"]
    db.execute(f"CREATE POLICY own_scopes ON idemtable AS RESTRICTIVE TO {user} USING (scope LIKE 'rls.%')")
    try:
        idem = db.table(engine)
        order = order_of(idem, **options)
        with as_tenant("acme"):
            assert [order.outcome("k", "acme").replayed for _ in range(2)] == [False, True]
            with db.session(engine) as mine:
                assert order.join(mine.session, "j", "acme") == "the secret of acme"
                mine.commit()
            with pytest.raises(sa.exc.DBAPIError, match=REFUSED), idem.transaction("s", "k", tenant="acme"):
                pass
        assert db.effects() == ["k for acme", "j for acme"]
    finally:
        db.execute("DROP POLICY own_scopes ON idemtable")


def test_the_purge_of_a_user_with_a_policy_of_its_own_takes_the_rows_of_all_tenants(
    db: HiredDatabase, engine: Any
) -> None:
    order = order_of(db.table(engine))
    for tenant in ("acme", "zeta"):
        with as_tenant(tenant):
            order("k", tenant)
    db.expire()
    assert db.idem.purge().deleted == 2


# --- broken on purpose ----------------------------------------------------------------------------------------------------


def test_without_the_policy_the_rows_of_others_are_there_to_be_seen(db: HiredDatabase, engine: Any) -> None:
    order = order_of(db.table(engine))
    with as_tenant("acme"):
        order("k", "acme")
    db.execute("ALTER TABLE idemtable DISABLE ROW LEVEL SECURITY")
    with as_tenant("zeta"):
        assert seen(db, engine) == ["acme"]
        assert order.outcome("k", "acme").replayed


def test_a_setting_of_the_session_would_outlive_its_transaction(db: HiredDatabase) -> None:
    def forgetful(connection: sa.Connection) -> None:
        if current.get():  # and otherwise whoever was here before
            connection.execute(sa.text("SELECT set_config('app.tenant', :tenant, false)"), {"tenant": current.get()})

    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        sa.event.listen(getattr(engine, "sync_engine", engine), "begin", forgetful)
        with as_tenant("acme"):
            order_of(db.table(engine))("k", "acme")
        assert seen(db, engine) == ["acme"]


def test_a_store_that_leaves_the_tenant_out_is_refused(
    db: HiredDatabase, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STORE", "STORE_OR_FAIL"):
        broken = re.sub("VALUES \\(:id, :tenant,", "VALUES (:id, NULL,", getattr(PostgreSQL, name))
        assert broken != getattr(PostgreSQL, name)
        monkeypatch.setattr(PostgreSQL, name, broken)
    with db.other_engine() as other:
        sa.event.listen(getattr(other, "sync_engine", other), "begin", tell)
        order = order_of(db.table(other))
        with as_tenant("acme"), pytest.raises(sa.exc.DBAPIError, match=REFUSED):
            order("k", "acme")
