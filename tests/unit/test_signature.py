"""What a decorated function takes: the compiled form must agree with inspect's, call for call."""

from __future__ import annotations

import functools
import inspect
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NotRequired, TypedDict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from idemtable import KeyRejectedError
from idemtable.annotations import declared_return
from idemtable.fingerprint import fingerprint
from idemtable.model import ALL
from idemtable.signature import Parameters


def plain(session, a, b): ...  # type: ignore[no-untyped-def]
def defaults(session, a, b=1, *, c, d=None): ...  # type: ignore[no-untyped-def]
def positional(session, a, b=2, /, c=3): ...  # type: ignore[no-untyped-def]
def variable(session, a, *more, b=1, **rest): ...  # type: ignore[no-untyped-def]
def keywords(session, *, a, b=1): ...  # type: ignore[no-untyped-def]
def nothing(session): ...  # type: ignore[no-untyped-def]
def shadows(session, /, a=1, **session_): ...  # type: ignore[no-untyped-def]
def same_name(session, a, /, **rest): ...  # type: ignore[no-untyped-def]


FUNCTIONS = [plain, defaults, positional, variable, keywords, nothing, shadows, same_name]


CALLS = st.tuples(
    st.lists(st.integers(0, 3), max_size=4),
    st.dictionaries(st.sampled_from(["a", "b", "c", "d", "rest", "more", "session"]), st.integers(0, 3), max_size=4),
)


@given(st.sampled_from(FUNCTIONS), st.lists(CALLS, min_size=1, max_size=6))
@example(plain, [([1], {"b": 2}), ([1], {"a": 2}), ([1], {"c": 2}), ([], {"a": 1, "b": 2}), ([], {"b": 1, "a": 2})])
def test_arguments_are_found_as_inspect_finds_them_whatever_was_called_before(
    function: Any, calls: list[tuple[list[int], dict[str, int]]]
) -> None:
    parameters = Parameters(function)
    for args, kwargs in calls:
        expected, fault = _bound(parameters.signature, args, kwargs)
        if fault is None:
            assert parameters.given(tuple(args), kwargs) == expected
            if "session" not in kwargs:
                function(None, *args, **kwargs)  # and Python takes the call
        else:
            with pytest.raises(TypeError, match=re.escape(f"{function.__qualname__}: {fault}")):
                parameters.given(tuple(args), kwargs)
            with pytest.raises(TypeError):
                function(None, *args, **kwargs)


def _bound(signature: inspect.Signature, args: list[int], kwargs: dict[str, int]) -> tuple[Any, str | None]:
    try:
        return dict(signature.bind(*args, **kwargs).arguments), None
    except TypeError as error:
        return None, str(error)


def test_the_signature_is_the_functions_without_its_session() -> None:
    assert str(Parameters(defaults).signature) == "(a, b=1, *, c, d=None)"
    assert Parameters(nothing).signature == inspect.Signature()


@pytest.mark.parametrize("function", [lambda: None, lambda *args: None, lambda *, key: None, lambda **session: None])
def test_a_function_without_a_place_for_the_session_is_refused(function: Any) -> None:
    with pytest.raises(TypeError, match="takes no session"):
        Parameters(function)


# --- extractors ------------------------------------------------------------------------------------------------------


def extract(function: Any, spec: Any, *args: Any, **kwargs: Any) -> Any:
    parameters = Parameters(function)
    return parameters.extractor(spec, "key")(parameters.given(args, kwargs), args, kwargs)


def test_a_name_gives_the_argument_or_its_default() -> None:
    assert extract(defaults, "a", 7, c=1) == 7
    assert extract(defaults, "b", 7, c=1) == 1
    assert extract(defaults, "b", 7, 8, c=1) == 8
    assert extract(defaults, "d", a=7, c=1) is None


def test_a_path_goes_into_an_argument_and_ends_in_none_where_nothing_is() -> None:
    assert extract(plain, "a.x.y", {"x": {"y": 5}}, 0) == 5
    assert extract(plain, "a.x.y", {"x": {}}, 0) is None
    assert extract(plain, "a.real", 5, 0) == 5


def test_a_callable_gets_the_calls_own_arguments() -> None:
    assert extract(defaults, lambda *args, **kwargs: (args, kwargs), 7, c=1) == ((7,), {"c": 1})


@pytest.mark.parametrize("spec", [None, 5, b"a", ("a",)], ids=repr)
def test_a_spec_of_another_kind_is_refused(spec: Any) -> None:
    with pytest.raises(TypeError, match="key="):
        Parameters(plain).extractor(spec, "key")


@pytest.mark.parametrize("spec", ["x", "", ".", "a.", ".a", "a..b", "session"], ids=repr)
def test_a_name_that_is_no_parameter_is_refused_and_the_others_are_listed(spec: str) -> None:
    with pytest.raises(ValueError, match="its parameters are: a, b"):
        Parameters(plain).extractor(spec, "key")


# --- fingerprints ----------------------------------------------------------------------------------------------------


def print_of(function: Any, payload: Any, *args: Any, **kwargs: Any) -> Any:
    parameters = Parameters(function)
    return parameters.fingerprinter(payload, "a")(parameters.given(args, kwargs), args, kwargs)


def test_all_leaves_out_the_key_and_what_is_at_its_default() -> None:
    base = print_of(defaults, ALL, "key", c=5)
    assert base == fingerprint({"c": 5})
    assert base == print_of(defaults, ALL, "other key", 1, c=5, d=None)
    assert base == print_of(defaults, ALL, a="key", c=5, b=1)
    assert base != print_of(defaults, ALL, "key", 2, c=5)
    assert base != print_of(defaults, ALL, "key", True, c=5)  # equal to the default, but not the same thing
    assert base != print_of(defaults, ALL, "key", 1.0, c=5)
    assert base != print_of(defaults, ALL, "key", c=5, d=False)


def test_an_argument_is_at_its_default_by_its_form_and_never_by_its_own_comparison() -> None:
    @dataclass
    class Odd:
        number: int

        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = None  # type: ignore[assignment]

    default = Odd(1)

    def function(session: Any, a: Any, b: Any = default) -> None: ...

    assert print_of(function, ALL, "key", Odd(2)) == fingerprint({"b": {"number": 2}})
    assert print_of(function, ALL, "key") == print_of(function, ALL, "key", Odd(1)) == fingerprint({})


def test_a_default_without_a_form_is_left_out_where_it_is_the_very_one() -> None:
    missing = object()

    def function(session: Any, a: Any, b: Any = missing) -> None: ...

    assert print_of(function, ALL, "key") == print_of(function, ALL, "key", missing) == fingerprint({})
    with pytest.raises(TypeError, match="payload="):
        print_of(function, ALL, "key", object())


def test_a_default_that_was_filled_in_place_counts() -> None:
    default: list[int] = []

    def function(session: Any, a: Any, b: list[int] = default) -> None: ...

    taken = Parameters(function).fingerprinter(ALL, "a")
    assert taken({"a": "key", "b": default}, (), {}) == fingerprint({})
    default.append(1)
    assert taken({"a": "key", "b": default}, (), {}) == fingerprint({"b": [1]})


def test_a_fingerprint_can_be_taken_in_a_version() -> None:
    for payload in (ALL, ("b",), lambda a, b: b):
        parameters = Parameters(plain)
        taken = parameters.fingerprinter(payload, "a")
        given = parameters.given(("key", 1), {})
        assert taken(given, ("key", 1), {}, 1) == taken(given, ("key", 1), {})
        with pytest.raises(ValueError, match="version 99"):
            taken(given, ("key", 1), {}, 99)
    assert Parameters(plain).fingerprinter(None, "a")({}, (), {}, 99) is None


def test_names_cover_those_and_leave_out_defaults_too() -> None:
    assert print_of(defaults, ("b", "c"), "key", c=5) == fingerprint({"c": 5})
    assert print_of(defaults, ("b", "c"), "key", 2, c=5) == fingerprint({"b": 2, "c": 5})
    assert print_of(plain, ("b.x",), "key", {"x": 1, "y": 2}) == fingerprint({"b.x": 1})
    assert print_of(plain, ("b.x",), "key", {"x": None}) == fingerprint({"b.x": None})


class Order(TypedDict):
    item: str
    note: NotRequired[str]


@dataclass
class Body:
    amount: int
    gift: bool = False
    order: Order | None = None


def typed(session, a, body: Body | None = None): ...  # type: ignore[no-untyped-def]


def test_a_path_covers_what_it_leads_to() -> None:
    def taken(payload: Any, body: Any) -> Any:
        return print_of(typed, payload, "key", body)

    assert taken(("body.amount",), Body(1)) == fingerprint({"body.amount": 1})
    assert taken(("body.amount", "body.gift"), Body(1, gift=True)) == fingerprint({"body.amount": 1, "body.gift": True})
    assert taken(("body.amount", "body.gift"), Body(1)) == fingerprint({"body.amount": 1})  # at the field's default
    assert taken(("body.order.item",), Body(1)) == fingerprint({"body.order.item": None})
    assert taken(("body.order.note",), Body(1, order={"item": "a"})) == fingerprint({"body.order.note": None})
    assert print_of(typed, ("body.amount",), "key") == fingerprint({"body.amount": None})


@pytest.mark.parametrize("body", [{}, {"item": {}}, SimpleNamespace(), {"item": SimpleNamespace(named=1)}], ids=repr)
def test_a_path_that_no_type_declares_and_no_call_has_is_an_error(body: Any) -> None:
    with pytest.raises(KeyRejectedError, match=r"nothing at 'b\.item\.name'") as caught:
        print_of(plain, ("b.item.name",), "key", body)
    assert isinstance(caught.value, ValueError)
    assert print_of(plain, ("b.item.name",), "key", {"item": None}) == fingerprint({"b.item.name": None})
    assert extract(plain, "b.item.name", "key", body) is None  # and then it is a missing key


def test_a_path_that_the_declared_type_does_not_have_is_refused() -> None:
    parameters = Parameters(typed)
    for what in ("key", "tenant"):
        with pytest.raises(
            ValueError, match=rf"{what}='body\.amont' of typed leads nowhere.*'amont'.*amount, gift, order"
        ):
            parameters.extractor("body.amont", what)
    with pytest.raises(ValueError, match=r"payload='body\.order\.itme'.*Order \(which has item, note\)"):
        parameters.fingerprinter(("body.order.itme",), "a")


def test_parameters_that_take_more_than_one_argument_tell_what_they_can() -> None:
    def function(session: Any, a: Any, *more: Body, **rest: Body) -> None: ...

    parameters = Parameters(function)
    for spec in ("rest.x", "rest.x.amount", "more.index"):
        assert parameters.extractor(spec, "key") is not None
    with pytest.raises(ValueError, match="'amont'"):
        parameters.extractor("rest.x.amont", "key")
    assert extract(function, "rest.x.amount", 1, x=Body(7)) == 7
    with pytest.raises(KeyRejectedError):
        print_of(function, ("rest.y.amount",), "key", x=Body(7))


def test_none_is_no_fingerprint() -> None:
    assert print_of(plain, None, "key", object()) is None


@pytest.mark.parametrize("payload", ["b", 5, (5,), {"b": 1}, object()], ids=lambda payload: type(payload).__name__)
def test_a_payload_of_another_kind_is_refused(payload: Any) -> None:
    with pytest.raises(TypeError, match="payload="):
        Parameters(plain).fingerprinter(payload, "a")


# --- the declared return type ----------------------------------------------------------------------------------------


class Receipt:
    pass


def passing_on(function: Any) -> Any:
    """As a decorator of another module: `__globals__` of what it returns are not the function's."""
    namespace: dict[str, Any] = {"functools": functools, "function": function}
    exec("@functools.wraps(function)\ndef wrapper(*args, **kwargs): return function(*args, **kwargs)", namespace)
    return namespace["wrapper"]


def test_a_return_type_written_as_text_is_resolved() -> None:
    def function(session: Any) -> Receipt: ...

    assert function.__annotations__["return"] == "Receipt"
    assert declared_return(function) is Receipt


def test_a_return_type_that_is_local_to_a_function_is_resolved() -> None:
    class Local:
        pass

    def function(session: Any) -> list[Local]: ...

    assert declared_return(function) == list[Local]


def test_a_return_type_is_resolved_through_another_modules_decorator() -> None:
    @passing_on
    def function(session: Any) -> Receipt: ...

    assert declared_return(function) is Receipt


def test_without_a_declared_type_it_is_any() -> None:
    def function(session):  # type: ignore[no-untyped-def]
        ...

    assert declared_return(function) is Any


def test_a_name_that_is_nowhere_is_refused_with_the_cure() -> None:
    def function(session: Any) -> Nowhere: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(TypeError, match="returns="):
        declared_return(function)
