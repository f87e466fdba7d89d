"""Which parameter gets the session: by its type, else by its name, else by its place."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any, NewType, Optional, TypeVar, Union

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from idemtable.annotations import Names
from idemtable.signature import Parameters

if TYPE_CHECKING:
    from nowhere import orm  # type: ignore[import-not-found]


class Mine(Session):
    pass


class Unrelated:
    pass


Bound = TypeVar("Bound", bound=Session)
Named = NewType("Named", Session)
SessionDep = Annotated[Session, "Depends(get_session)"]


def found(function: Any, key: Any = "key", tenant: Any = None) -> str:
    return Parameters(function, key, tenant, Names(function)).session.name


@pytest.mark.parametrize(
    "annotation",
    [
        Session, AsyncSession, Mine, scoped_session, scoped_session[Session], async_scoped_session[AsyncSession],
        Annotated[Session, "x"], Optional[Session], Union[int, Session], Session | None, Annotated[Mine | None, 1],  # noqa: UP007, UP045
        Bound, Named, SessionDep,
        "Session", "'Session'", "SessionDep", "Mine | None", "Annotated[Session, Depends(get)]",
        "orm.Session", "Hidden.Session", "Optional[orm.AsyncSession]", "Annotated[orm.Session, f(1)]",
        "nowhere.scoped_session[Hidden]", "None | 'orm.Session'",
    ],
    ids=str,
)  # fmt: skip
def test_a_session_class_is_found_wherever_it_stands(annotation: Any) -> None:
    def last(item: Any, key: str, *more: Any, db: Any = None, **rest: Any) -> None: ...
    def middle(key: str, db: Any, session: Any) -> None: ...
    def method(self: Any, item: Any, db: Any, key: str) -> None: ...

    for function in (last, middle, method):
        function.__annotations__["db"] = annotation
        assert found(function) == "db"


@pytest.mark.parametrize(
    "annotation",
    [
        int, Unrelated, sessionmaker[Session], type[Session], list[Session], dict[str, Session], Any,
        "Orm", "sessionmaker[orm.Session]", "list[orm.Session]", "Annotated[Orm, Session]", "UserSession", "a b",
        "Literal['x']",
    ],
    ids=str,
)  # fmt: skip
def test_what_only_mentions_a_session_is_none(annotation: Any) -> None:
    def function(key: str, db: Any) -> None: ...

    function.__annotations__["db"] = annotation
    with pytest.raises(TypeError, match="annotate the parameter that is to get it with Session"):
        found(function)


def test_a_type_that_is_known_goes_before_one_that_only_reads_like_a_session() -> None:
    def function(web: orm.Session, key: str, db: Session) -> None: ...

    assert found(function) == "db"


def test_of_two_the_one_named_session_gets_it_else_the_first() -> None:
    def named(archive: Session, session: Session, key: str) -> None: ...
    def first(main: Session, archive: Session, key: str) -> None: ...

    assert (found(named), found(first)) == ("session", "main")


def test_without_a_type_the_name_counts_then_the_first_place() -> None:
    def named(key, session): ...  # type: ignore[no-untyped-def]
    def typed(key: str, session: Any) -> None: ...
    def first(db, key): ...  # type: ignore[no-untyped-def]
    def method(self, db, key): ...  # type: ignore[no-untyped-def]
    def path(db, order): ...  # type: ignore[no-untyped-def]
    def taken(db, session, key): ...  # type: ignore[no-untyped-def]

    assert [found(one) for one in (named, typed, first, method)] == ["session", "session", "db", "db"]
    assert found(path, "order.id") == "db"
    assert found(taken, tenant="session") == "db"


def test_the_key_the_tenant_and_what_has_a_type_are_no_session() -> None:
    def key_first(key, item): ...  # type: ignore[no-untyped-def]
    def tenant_first(tenant, key): ...  # type: ignore[no-untyped-def]
    def typed(item: str, key: str) -> None: ...
    def keywords(*, db, key): ...  # type: ignore[no-untyped-def]

    for function in (key_first, tenant_first, typed, keywords):
        with pytest.raises(TypeError, match=f"{function.__name__} takes no session"):
            found(function, tenant="tenant")


def test_the_object_of_a_method_is_no_session_and_none_of_the_payload() -> None:
    def method(self, session, key): ...  # type: ignore[no-untyped-def]
    def keyword(session, *, self): ...  # type: ignore[no-untyped-def]

    assert Parameters(method).receiver == "self"
    assert str(Parameters(method).signature) == "(self, key)"
    assert Parameters(keyword).receiver is None


def test_the_arguments_are_filled_as_the_kind_of_the_session_demands() -> None:
    def last(a, b, session): ...  # type: ignore[no-untyped-def]
    def only(a, *, session): ...  # type: ignore[no-untyped-def]
    def positional(a=1, b=2, session=None, /, *c): ...  # type: ignore[no-untyped-def]

    assert Parameters(last).filled("S", (1, 2), {}) == ((1, 2, "S"), {})
    assert Parameters(last).filled("S", (1,), {"b": 2}) == ((1,), {"b": 2, "session": "S"})
    assert Parameters(only).filled("S", (1,), {}) == ((1,), {"session": "S"})
    assert Parameters(positional).filled("S", (), {}) == ((1, 2, "S"), {})
    assert Parameters(positional).filled("S", (8,), {}) == ((8, 2, "S"), {})
    assert Parameters(positional).filled("S", (8, 9, 10), {}) == ((8, 9, "S", 10), {})
    assert inspect.signature(positional).bind(8, 9, "S", 10)
