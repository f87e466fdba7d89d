"""What the decorator gives back is a function of the program's: tools find what they look for, and never the session."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import subprocess
import sys
import typing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from idemtable import AsyncIdemTable, IdemTable, InvalidKeyError, Outcome, RetryTransactionError

engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
idem = IdemTable(engine)
idem.create_all()
aidem = AsyncIdemTable(create_async_engine("sqlite+aiosqlite://"))


@idem.transactional("pay", key="key")
def pay(session: Session, key: str, amount: int = 1) -> int:
    """Take the money."""
    assert isinstance(session, Session)
    return amount


@aidem.transactional("send", key="key")
async def send(session: AsyncSession, key: str) -> int:
    """Send it."""
    return 1


class Shop:
    name = "corner"

    @idem.transactional("shop.pay", key="key")
    def pay(self, session: Session, key: str, amount: int = 1) -> str:
        assert isinstance(session, Session)
        return f"{self.name} {amount}"

    @classmethod
    @idem.transactional("shop.of_class", key="key")
    def of_class(cls, key: str, session: Session) -> str:
        return cls.name

    @staticmethod
    @idem.transactional("shop.static", key="key")
    def static(key: str, *, session: Session) -> str:
        return "static"

    @idem.transactional("shop.named", key=lambda self, order: order["id"], payload=("order", "self.name"))
    def named(self, session: Session, order: dict[str, str]) -> str:
        return self.name


class Till:
    """A callable object."""

    secret = "not copied"

    def __call__(self, session: Session, key: str) -> str:
        return "till"


def each() -> list[Any]:
    return [pay, pay.outcome, pay.join, pay.join_outcome, send, send.outcome, send.join, send.join_outcome]


def test_each_form_is_a_function_of_its_colour() -> None:
    for form in each():
        assert inspect.isfunction(form)
        assert inspect.iscoroutinefunction(form) is (form.__qualname__.startswith("send"))
        assert form.__module__ == __name__
        assert form.__doc__ in ("Take the money.", "Send it.")


def test_each_form_is_pickled_by_its_name_and_copied_as_itself() -> None:
    for form in [*each(), Shop.pay, Shop.static]:
        assert pickle.loads(pickle.dumps(form)) is form
        assert copy.copy(form) is form
        assert copy.deepcopy(form) is form
    assert pickle.loads(pickle.dumps(functools.partial(pay, "k"))).func is pay


def test_a_process_pool_takes_it() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(pay, "pool", amount=3).result(60) == 3


def test_the_session_is_seen_by_nobody() -> None:
    assert str(inspect.signature(pay)) == "(key: 'str', amount: 'int' = 1) -> 'int'"
    assert inspect.getfullargspec(pay).args == ["key", "amount"]
    assert (
        inspect.signature(pay, follow_wrapped=False)
        == inspect.signature(pay)
        == inspect.signature(pay.outcome).replace(return_annotation="int")
    )
    assert pay.__annotations__ == {"key": "str", "amount": "int", "return": "int"}
    assert typing.get_type_hints(pay) == {"key": str, "amount": int, "return": int}
    assert inspect.get_annotations(send, eval_str=True) == {"key": str, "return": int}
    assert list(inspect.signature(pay.join).parameters) == ["session", "key", "amount"]
    assert typing.get_type_hints(pay.join_outcome)["return"] is Outcome
    assert list(inspect.signature(Shop.pay).parameters) == ["self", "key", "amount"]
    assert list(inspect.signature(Shop().pay).parameters) == ["key", "amount"]
    assert list(inspect.signature(Shop.pay.join).parameters) == ["self", "session", "key", "amount"]
    assert list(inspect.signature(Shop.static).parameters) == ["key"]
    assert next(iter(inspect.signature(inspect.unwrap(pay)).parameters)) == "session"


def test_what_wraps_it_shows_the_same_call() -> None:
    @functools.wraps(pay)
    def outer(*args: Any, **kwargs: Any) -> Any:
        return pay(*args, **kwargs)

    assert inspect.signature(outer) == inspect.signature(pay)
    assert outer("wrapped", amount=4) == 4
    assert outer.outcome("wrapped", amount=4).replayed  # type: ignore[attr-defined]
    assert functools.partial(pay, "partial")(amount=5) == 5


def test_an_autospec_takes_the_call_without_the_session() -> None:
    spied, asynchronous = mock.create_autospec(pay, return_value=7), mock.create_autospec(send, return_value=8)
    assert spied("k", amount=2) == 7
    with pytest.raises(TypeError):
        spied(mock.sentinel.session, "k", 1)
    assert asyncio.run(asynchronous(key="k")) == 8
    spied.outcome("k")
    shop = mock.create_autospec(Shop)
    shop().pay("k", amount=1)


def test_methods_are_called_on_their_object_and_their_attributes_take_it_first() -> None:
    shop = Shop()
    assert shop.pay("m-1", amount=2) == "corner 2"
    assert Shop.pay(shop, key="m-1", amount=2) == "corner 2"
    assert Shop.pay.outcome(Shop(), "m-1", 2).replayed  # another object, the same request
    assert shop.pay.outcome(shop, "m-1", amount=2).replayed
    assert Shop.of_class("m-2") == Shop().of_class(key="m-2") == "corner"
    assert Shop.static("m-3") == Shop().static(key="m-3") == "static"
    assert shop.named({"id": "m-4"}) == "corner"
    with Session(engine) as session:
        assert Shop.pay.join(shop, session, "m-5") == "corner 1"
        assert Shop.pay.join_outcome(shop, session, key="m-5").replayed
        assert Shop.of_class.join(Shop, session, "m-6") == "corner"
        assert Shop.static.join(session, "m-7") == "static"
        assert pay.join(session=session, key="m-8") == 1
        with pytest.raises(TypeError, match="self, then the caller's session"):
            Shop.pay.join(session)
        session.commit()


def test_partials_and_objects_that_can_be_called_are_functions_too() -> None:
    def base(session: Session, key: str, item: str, amount: int) -> str:
        return f"{amount} {item}"

    part = idem.transactional("partial", key="key")(functools.partial(base, item="tea"))
    assert part("k", amount=2) == "2 tea"
    assert part.__name__ == "base"
    till = idem.transactional("till", key="key")(Till())
    assert till("k") == "till"
    assert (till.__name__, hasattr(till, "secret")) == ("Till", False)
    bound = idem.transactional("bound", key="key")(Till().__call__)
    assert bound("k") == "till"


def test_words_that_the_library_uses_itself_may_be_keywords() -> None:
    @idem.transactional("words", key="key")
    def words(db: Session, /, key: str, *, self: int, args: int = 0, **session: int) -> list[int]:
        return [self, args, session["session"], session["made"]]

    assert words("k", self=1, args=2, session=3, made=4) == [1, 2, 3, 4]
    assert words.outcome(key="k", self=1, args=2, session=3, made=4).replayed
    with Session(engine) as held:
        assert words.join(held, key="k", self=1, args=2, session=3, made=4) == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_the_other_order_of_decorators_is_refused_with_the_cure(kind: Any) -> None:
    with pytest.raises(TypeError, match=f"below @{kind.__name__}"):
        idem.transactional("order", key="key")(kind(lambda session, key: None))


def test_a_session_of_the_other_colour_is_refused_where_it_is_declared() -> None:
    """What is not awaited is not done, and the key would be kept without it."""

    async def plainly(session: Session, key: str) -> None: ...
    def awaiting(key: str, *, db: Annotated[AsyncSession | None, "fastapi"]) -> None: ...
    def either(session: Session | AsyncSession, key: str) -> None: ...

    def wrapped(session: Session, key: str) -> None: ...
    @functools.wraps(wrapped)
    async def adapting(*args: Any) -> None: ...

    with pytest.raises(TypeError, match="annotate session with AsyncSession, and await"):
        aidem.transactional("plainly", key="key")(plainly)
    with pytest.raises(TypeError, match="annotate session with AsyncSession, and await"):
        aidem.inbox("plainly").transactional(message_id="key")(plainly)
    with pytest.raises(TypeError, match="annotate db with Session, or use AsyncIdemTable"):
        idem.transactional("awaiting", key="key")(awaiting)
    assert idem.transactional("either", key="key")(either)("k") is None
    assert asyncio.iscoroutinefunction(aidem.transactional("adapting", key="key")(adapting))


def test_the_session_stands_where_the_function_wants_it() -> None:
    def last(key: str, item: str, session: Session) -> str:
        return f"{item} {type(session).__name__}"

    def only(key: str, item: str = "tea", *, db: Annotated[Session, "fastapi"]) -> str:
        return f"{item} {type(db).__name__}"

    def middle(key: str, item: str = "tea", session: Session = None, /, *more: str) -> str:  # type: ignore[assignment]
        return f"{item} {type(session).__name__}"

    for number, function in enumerate((last, only, middle)):
        call = idem.transactional(f"stands.{number}", key="key")(function)
        assert call("k", "tea") == "tea Session"
        assert call.outcome("k", "tea").replayed
        if function is not middle:
            assert call(item="milk", key="named") == "milk Session"
        else:
            assert call("default") == "tea Session"
            assert call("more", "tea", "x", "y") == "tea Session"
        if function is last:
            with pytest.raises(TypeError, match="leave the session out"):
                call("k", "tea", session=None)


def test_a_session_in_the_place_of_the_key_is_to_be_left_out() -> None:
    """As whoever called the function before it was decorated passes it: that is no bad key of a client's."""
    with Session(engine) as held:
        for call in (pay, pay.outcome, functools.partial(pay.join, held), functools.partial(Shop().pay)):
            with pytest.raises(TypeError, match="leave the session out"):
                call(held, "k")
    with pytest.raises(TypeError, match="leave the session out"):
        asyncio.run(send(AsyncSession()))  # type: ignore[arg-type]
    with pytest.raises(InvalidKeyError, match="not Till"):
        pay(Till())  # type: ignore[arg-type]


# --- annotations that are text ---------------------------------------------------------------------------------------

SCRIPT = """
from __future__ import annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING
import sqlalchemy
from idemtable import IdemTable
if TYPE_CHECKING:
    from sqlalchemy.orm import Session

idem = IdemTable(sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.StaticPool))
idem.create_all()

@dataclass
class Receipt:
    id: int

@idem.transactional("top", key="key")
def top(key: str, session: Session) -> Receipt:
    return Receipt(1)

class Shop:
    @dataclass
    class Slip:
        id: int

    @idem.transactional("method", key="key")
    def pay(self, session: Session, key: str) -> Slip:
        return self.Slip(2)

def inner():
    @dataclass
    class Local:
        id: int

    def deeper():
        @idem.transactional("deep", key="key")
        def deep(session: Session, key: str) -> list[Local]:
            return [Local(3)]
        return deep
    return deeper()

print(top("k"), top("k"), Shop().pay("k").id, inner()("k")[0].id)
"""


@pytest.mark.parametrize(
    "how",
    [
        ["shop.py"],
        ["-m", "shop"],
        ["-c", "import shop"],
        ["-c", "exec(open('shop.py').read())"],
        ["-c", "def run(): exec(open('shop.py').read(), {'__name__': '__main__'})\nrun()"],
    ],
    ids=["script", "module", "import", "exec", "exec-in-a-function"],
)
def test_a_program_whose_annotations_are_text_runs(how: list[str], tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, *how], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "Receipt(id=1) Receipt(id=1) 2 3", done.stderr


def test_text_that_is_executed_with_locals_of_its_own_finds_them() -> None:
    text = """
from __future__ import annotations
class Receipt(dict): ...
@decorate
def top(session: Session, key: str) -> dict[str, Number]: return {"a": 1}
Number = int
"""
    local: dict[str, Any] = {"Number": int}
    exec(text, {"__name__": __name__, "decorate": idem.transactional("exec", key="key")}, local)
    assert local["top"]("k") == {"a": 1}


# --- arguments that the first attempt changed ------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [{}, {"payload": None}, {"payload": ("key",)}], ids=["all", "none", "some"])
@pytest.mark.parametrize("change", [True, False])
def test_a_second_run_has_the_arguments_of_the_first_one(payload: dict[str, Any], change: bool) -> None:
    runs: list[int] = []

    @idem.transactional("book", key="key", **payload)
    def book(session: Session, key: str, items: list[str], opaque: Any = None) -> int:
        runs.append(len(items))
        booked = 0
        for _ in list(items):
            booked += 1
            if change:
                items.pop()
        if len(runs) == 1:
            raise RetryTransactionError("begin again")
        return booked

    opaque = object() if payload else None
    if change:
        with pytest.raises(RetryTransactionError, match="copies") as caught:
            book(f"c{payload}", ["cup", "pot"], opaque)
        assert caught.value.retryable
        assert runs == [2]
        assert idem.get("book", f"c{payload}") is None
        assert book(f"c{payload}", ["cup", "pot"], opaque) == 2
    else:
        outcome = book.outcome(f"s{payload}", ["cup", "pot"], opaque)
        assert (outcome.value, outcome.attempts) == (2, 2)
