"""What is done once passes, however it is called, on every database and in both colours; and no trace is left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from idemtable import Flag
from idemtable.claim import steps
from idemtable.claim.steps import Step
from idemtable.dialects import compound, packet
from idemtable.testing import InjectedCrash, assert_idempotent, assertion, outside, trial
from tests.support import PATIENCE
from tests.support.backends import db_of
from tests.support.database import effect
from tests.support.kit import Shop, buy


class Declined(Exception):
    pass


def test_a_protected_function_passes_is_done_once_for_each_key_and_nothing_of_the_trial_is_left(
    every_shop: Shop,
) -> None:
    shop, keys = every_shop, set()
    with steps.listening(lambda moment: keys.add(moment.request.key)):
        shop.prove(shop.order(buy))
    assert len(shop.db.effects()) == len(shop.db.rows()) == len(keys) >= 15
    assert steps.listeners == ()
    assert outside._heard == ()
    assert not [one for one in outside._LISTENERS if event.contains(*one)]
    assert not [thread.name for thread in threading.enumerate() if "idemtable-testing" in thread.name]
    assert getattr(shop.db.engine, "sync_engine", shop.db.engine).pool.checkedout() == 0


def test_there_is_a_crash_at_every_step_of_the_protocol(any_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed: list[Step] = []

    class Seen(trial.Crash):
        def _error(self, point: Any) -> BaseException:
            crashed.append(point.step)
            error = super()._error(point)
            assert isinstance(error, InjectedCrash)
            return error

    monkeypatch.setattr(trial, "Crash", Seen)
    any_shop.prove(any_shop.order(buy))
    assert crashed == [
        *(Step.ENTERED, Step.CLAIMED, Step.RUNNING),
        *(Step.RUNNING, Step.GAVE_BACK),
        *(Step.RAN, Step.STORED, Step.COMMITTED),
        *(Step.ENTERED, Step.FOUND, Step.REPLAYED),
    ]
    assert set(crashed) == set(Step)


@pytest.mark.parametrize(
    ("backend", "packing", "name"),
    [("postgresql18", packet.Line, "commit_with"), ("mariadb", compound.Along, "_in_block")],
)
def test_calls_at_once_take_the_way_that_they_take_in_production(
    backend: str, packing: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody listens to the steps, COMMIT does not travel with the statement before it; here nobody does."""
    travelled: list[Any] = []
    usual = getattr(packing, name)

    def counted(*args: Any) -> Any:
        gave = usual(*args)
        travelled.append(gave is not False)
        return gave

    monkeypatch.setattr(packing, name, counted)
    shop = Shop(db_of(backend))
    shop.prove(shop.order(buy), callers=2)
    assert True in travelled


def test_calls_in_a_session_of_the_callers_pass(any_shop: Shop) -> None:
    order = any_shop.order(buy)

    def call(key: str) -> None:
        with any_shop.db.session() as mine:
            mine.run(lambda session: effect(session, "mine"))
            order.join(mine.session, key)  # type: ignore[attr-defined]
            mine.commit()

    def twice(key: str) -> None:
        call(key)

    assert "table effect" in any_shop.refuse(twice)  # its own row is written again, whatever comes of the key

    def once(key: str) -> None:
        with any_shop.db.session() as mine:
            order.join(mine.session, key)  # type: ignore[attr-defined]
            mine.commit()

    any_shop.prove(once)


def test_blocks_pass() -> None:
    db = db_of("postgresql18")

    def call(key: str) -> None:
        with db.idem.transaction("testing.block", key) as claim:
            if not claim.replayed:
                effect(claim.session, "tea")

    Shop(db).prove(call)


def test_a_failure_that_is_remembered_passes(any_shop: Shop) -> None:
    def declining(session: Session, key: str) -> None:
        effect(session, "undone")
        raise Declined(key)

    order = any_shop.order(declining, remember=(Declined,))

    def call(key: str) -> None:
        with pytest.raises(Declined):
            order(key)

    any_shop.prove(call)
    assert any_shop.db.effects() == []
    assert len(any_shop.db.rows()) > 10


def test_a_function_inside_another_one_passes(any_shop: Shop) -> None:
    inner = any_shop.order(buy)

    def outer(session: Session, key: str) -> None:
        effect(session, "outer")
        inner(f"{key} inner")

    any_shop.prove(any_shop.order(outer))
    assert sorted(set(any_shop.db.effects())) == ["outer", "tea"]


@pytest.mark.parametrize("settings", [{"store_keys": False}, {"table": "other_keys"}], ids=["nameless", "renamed"])
def test_the_table_of_keys_is_known_under_any_name(settings: dict[str, Any]) -> None:
    db = db_of("sqlite")
    idem = db.table(**settings)
    idem.create_all()

    @idem.transactional("testing.settings", key="key", share_scope=True)
    def order(session: Session, key: str) -> None:
        buy(session, key)

    assert_idempotent(order, db.engine)
    order("again")
    with pytest.raises(AssertionError, match=r"table (idemtable|other_keys): 3 rows added, where one call leaves 2"):
        assert_idempotent(lambda key: (order(key), order(f"{key} {len(db.effects())}")), db.engine)
    db.execute("DROP TABLE IF EXISTS other_keys")
    db.execute("DROP TABLE IF EXISTS other_keys_version")


def test_a_batch_passes(shop: Shop) -> None:
    db = shop.db

    def importing(key: str) -> None:
        with db.session() as mine:
            flags = db.idem.claim_many(mine.session, "testing.import", [f"{key} {n}" for n in range(3)])
            for flag in flags:
                if flag is Flag.New:
                    mine.run(lambda session: effect(session, "line"))
            mine.commit()

    shop.prove(importing)
    assert len(db.effects()) == len(db.rows()) > 30


# What is run in other threads than the test's is an application's, and fails where the test's would crash.


def beside(call: Callable[[str], Any]) -> Callable[[str], Any]:
    """Call in a thread of an application."""

    def called(key: str) -> Any:
        with ThreadPoolExecutor(1) as application:
            return application.submit(call, key).result(PATIENCE)

    return called


def test_a_crash_is_not_remembered_as_an_answer() -> None:
    db = db_of("postgresql18")
    shop = Shop(db)
    shop.prove(beside(shop.order(buy, remember=(Exception,))))


def test_who_swallows_the_error_of_a_call_inside_fails_all_the_same() -> None:
    db = db_of("postgresql18")
    shop = Shop(db)
    inner = shop.order(buy)

    def swallowing(session: Session, key: str) -> None:
        with suppress(Exception):
            inner(f"{key} inner")
        effect(session, "outer")

    shop.prove(beside(shop.order(swallowing)))


# --- colours --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "looks",
    [lambda call: call, lambda call: type("Caller", (), {"__call__": staticmethod(call)})()],
    ids=["async def", "object"],
)
def test_an_async_call_gives_what_is_to_be_awaited_whatever_it_looks_like(looks: Any) -> None:
    db = db_of("sqlite-async")
    order = Shop(db).order(buy)

    async def call(key: str) -> None:
        await order.inner(key)  # type: ignore[attr-defined]

    async def prove() -> None:
        trial = assert_idempotent(looks(call), db.engine)
        assert asyncio.iscoroutine(trial)
        await trial

    db.loop.run(prove())  # type: ignore[union-attr]
    assert len(db.effects()) == len(db.rows()) > 10


@pytest.mark.parametrize("looks", [lambda call: call, lambda call: lambda key: call(key)], ids=["async def", "lambda"])
@pytest.mark.filterwarnings("ignore:coroutine .*call' was never awaited:RuntimeWarning")
def test_who_forgets_to_await_it_is_warned_by_its_name(looks: Any) -> None:
    async def call(key: str) -> None: ...

    with pytest.warns(RuntimeWarning, match=r"coroutine 'idemtable\.testing\.assert_idempotent' was never awaited"):
        assert_idempotent(looks(call), db_of("sqlite-async").engine)
    assertion.owed.clear()  # or the plugin, where it is installed, fails this test


def test_a_cancellation_ends_it_and_leaves_nothing(any_shop: Shop) -> None:
    db = db_of("postgresql18-async")
    order = Shop(db).order(buy)
    begun = asyncio.Event()

    async def call(key: str) -> None:
        await order.inner(key)  # type: ignore[attr-defined]
        begun.set()
        await asyncio.Event().wait()

    async def cancelled() -> None:
        task = asyncio.create_task(assert_idempotent(call, db.engine))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    db.loop.run(cancelled())  # type: ignore[union-attr]
    assert steps.listeners == ()
    assert outside._heard == ()


# --- what cannot be -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_before_anything_is_called() -> None:
    db = db_of("sqlite")

    def call(key: str) -> None:
        raise LookupError("it was called")

    with db.engine.connect() as connection, pytest.raises(TypeError, match="takes an Engine or AsyncEngine"):
        assert_idempotent(call, connection)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="StaticPool the engine has one connection for everybody"):
        assert_idempotent(call, sa.create_engine("sqlite://", poolclass=sa.StaticPool))
    with pytest.raises(ValueError, match="use a file, as the fixture idem_sqlite does"):
        assert_idempotent(call, sa.create_engine("sqlite://"))
    with pytest.raises(TypeError, match="takes a function of a key, not 'orders'"):
        assert_idempotent("orders", db.engine)  # type: ignore[call-overload]
    for names in ("audit", None, [1]):
        with pytest.raises(TypeError, match=r"ignore= takes names of tables, such as \['audit'\]"):
            assert_idempotent(call, db.engine, ignore=names)  # type: ignore[call-overload]
    for callers, error in ((1, ValueError), (0, ValueError), ("8", TypeError)):
        with pytest.raises(error, match="callers"):
            assert_idempotent(call, db.engine, callers=callers)  # type: ignore[call-overload]


def test_what_the_call_raises_is_told_with_its_phase() -> None:
    def call(key: str) -> None:
        raise LookupError("no such item")

    with pytest.raises(AssertionError, match=r"^one call: the call has raised LookupError: no such item$") as caught:
        assert_idempotent(call, db_of("sqlite").engine)
    assert isinstance(caught.value.__cause__, LookupError)


def test_an_engine_of_another_database_is_told() -> None:
    shop = Shop(db_of("sqlite"))
    with pytest.raises(AssertionError, match="give the engine of its table, let it commit, and bind"):
        assert_idempotent(shop.order(buy), db_of("postgresql18").engine)


def test_a_call_that_nothing_protects_is_told_where_it_leaves_the_same_rows() -> None:
    with pytest.raises(AssertionError, match="no function that idemtable protects"):
        assert_idempotent(lambda key: None, db_of("sqlite").engine)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_test_ends_it(error: type[BaseException]) -> None:
    def interrupted(key: str) -> None:
        raise error

    with pytest.raises(error):
        assert_idempotent(interrupted, db_of("sqlite").engine)
    with pytest.raises(error):  # and out of the threads that call at once

        def once(key: str) -> None:
            if threading.current_thread() is not threading.main_thread():
                raise error

        assert_idempotent(once, db_of("sqlite").engine)


def test_a_small_pool_is_enough(any_shop: Shop) -> None:
    """What looks takes none of the application's connections."""
    with any_shop.db.other_engine(pool_size=1, max_overflow=0) as engine:
        any_shop.prove(any_shop.order(buy, any_shop.db.table(engine)), engine)
