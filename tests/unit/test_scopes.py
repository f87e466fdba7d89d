"""One scope on one table belongs to one function."""

from __future__ import annotations

import gc
import weakref
from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from idemtable import IdemTable
from idemtable.scopes import Owner


def create(session: Any, key: str) -> int:
    return 1


def cancel(session: Any, key: str) -> int:
    return 2


@pytest.fixture
def engine() -> sa.Engine:
    return sa.create_engine("sqlite://")


def test_two_functions_are_refused_whichever_table_object_names_it(engine: sa.Engine) -> None:
    kept = IdemTable(engine).transactional("orders", key="key")(create)
    for bind in (engine, engine.execution_options(x=1), sessionmaker(engine), lambda: engine):
        idem = IdemTable(bind)
        if callable(bind) and not isinstance(bind, sessionmaker):
            idem._settings.engine  # noqa: B018 - now it is known
        with pytest.raises(ValueError, match=r"cancel has the scope 'orders' of .*create.*share_scope=True"):
            idem.transactional("orders", key="key")(cancel)
    assert kept is not None


def test_another_scope_table_schema_database_or_a_block_is_nobodys_business(engine: sa.Engine) -> None:
    idem = IdemTable(engine)
    kept = [
        idem.transactional("orders", key="key")(create),
        idem.transactional("others", key="key")(cancel),
        IdemTable(engine, table="other").transactional("orders", key="key")(cancel),
        IdemTable(engine, schema="other").transactional("orders", key="key")(cancel),
        IdemTable(sa.create_engine("sqlite://")).transactional("orders", key="key")(cancel),
        idem.tokens("orders", ttl=timedelta(1)).transactional(token="key")(cancel),
        idem.transaction("orders", "k"),
    ]
    assert all(kept)


def test_tokens_have_scopes_too(engine: sa.Engine) -> None:
    tokens = IdemTable(engine).tokens("mail", ttl=timedelta(1))
    kept = tokens.transactional(token="key")(create)
    with pytest.raises(ValueError, match="share_scope"):
        tokens.transactional(token="key")(cancel)
    assert kept is not None


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_both_must_agree_to_share(engine: sa.Engine, first: bool, second: bool) -> None:
    idem = IdemTable(engine)
    kept = idem.transactional("orders", key="key", share_scope=first)(create)
    decorate = idem.transactional("orders", key="key", share_scope=second)
    if first and second:
        decorate(cancel)
    else:
        with pytest.raises(ValueError, match="in both"):
            decorate(cancel)
    assert kept is not None


def test_the_same_function_may_be_decorated_again(engine: sa.Engine) -> None:
    idem = IdemTable(engine)
    kept = [idem.transactional("orders", key="key")(create) for _ in range(3)]
    for _ in range(3):

        @idem.transactional("loop", key="key")
        def local(session: Any, key: str) -> None: ...

        kept.append(local)
    main, module = Owner("__main__", "create", "/shop.py", False), Owner("shop", "create", "/shop.py", False)
    assert main.admits(module)
    assert not main.admits(Owner("__main__", "cancel", "/shop.py", False))
    assert not Owner("__main__", "create", None, False).admits(Owner("other", "create", None, False))


def test_a_late_bind_is_known_by_itself() -> None:
    maker = sessionmaker()
    kept = IdemTable(maker).transactional("orders", key="key")(create)
    with pytest.raises(ValueError, match="share_scope"):
        IdemTable(maker).transactional("orders", key="key")(cancel)
    maker.configure(bind=sa.create_engine("sqlite://"))
    with pytest.raises(ValueError, match="share_scope"):
        IdemTable(maker).transactional("orders", key="key")(cancel)
    assert kept is not None


def test_a_function_that_is_gone_has_no_scope_even_if_it_called_itself(engine: sa.Engine) -> None:
    idem = IdemTable(engine)

    def make() -> None:
        @idem.transactional("orders", key="key")
        def again(session: Any, key: str) -> Any:
            return again

    gc.disable()
    try:
        make()
        idem.transactional("orders", key="key")(cancel)
    finally:
        gc.enable()


def test_nothing_is_kept_alive() -> None:
    engine = sa.create_engine("sqlite://")
    idem = IdemTable(engine)
    decorated = idem.transactional("orders", key="key")(create)
    alive = [weakref.ref(one) for one in (engine, engine.dialect, idem, decorated)]
    del engine, idem, decorated
    gc.collect()
    from idemtable import settings

    settings._compiled.clear()  # the statements of a dialect are kept for the next engine
    gc.collect()
    assert [one() for one in alive] == [None] * 4


def test_of_many_at_once_one_gets_it(engine: sa.Engine) -> None:
    idem, barrier = IdemTable(engine), Barrier(8)
    answers: list[Any] = []

    def decorate(number: int) -> None:
        def function(session: Any, key: str) -> None: ...

        function.__qualname__ = f"function{number}"
        barrier.wait()
        try:
            answers.append(idem.transactional("orders", key="key")(function))
        except ValueError as error:
            answers.append(error)

    threads = [Thread(target=decorate, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(answer, ValueError) for answer in answers) == 7


def test_scopes_made_for_each_request_do_not_stay(engine: sa.Engine) -> None:
    from idemtable.scopes import SCOPES

    idem = IdemTable(engine)
    for number in range(3000):
        idem.transactional(f"scope-{number}", key="key")(create)
    assert len(SCOPES._at[engine.dialect]._owners) < 2000
