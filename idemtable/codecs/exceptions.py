"""Exceptions that were named in ``remember``, to bytes and back.

Only the classes that the program names (and what derives from them) are ever rebuilt: the row holds a name to compare
with, not a name to import.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import msgspec

from ..errors import ResultNotSerializableError, ResultTooLargeError, ResultUnreadableError
from ..model import EXCEPTION, MARK
from ..nature import by_nature
from .same import difference, held, members
from .tagged import identity, loaded, tagged, untagged

_HEAP_TYPE: Final = 1 << 9


def pack(error: Exception, classes: tuple[type[Exception], ...], scope: str, limit: int = sys.maxsize) -> bytes:
    """Return an exception as bytes: its class's name, its arguments, its attributes.

    Raises:
        ResultNotSerializableError: what `unpack` would make of them is not the same: another class, argument,
            attribute or text.
        ResultTooLargeError: more bytes than `limit`.
    """
    try:
        data, why = _packed(error, classes, limit)
    except Exception as fault:
        if not by_nature(fault, lambda: _packed(error, classes, limit)):
            raise
        raise _refused(error, scope, str(fault)) from error
    if len(data) > limit:
        raise ResultTooLargeError(
            f"{type(error).__name__}, which {scope} is to remember, has {len(data)} bytes, more than the {limit} "
            f"allowed; the effect was rolled back and nothing is remembered",
            scope=scope,
            size=len(data),
            limit=limit,
        ) from error
    if why is not None:
        raise _refused(error, scope, why) from error
    return data


def unpack(data: bytes | None, classes: tuple[type[Exception], ...], scope: str) -> Exception:
    """Return the stored exception, of the same class and with the same arguments.

    Raises:
        ResultUnreadableError: its class is not among `classes` or what derives from them.
    """
    try:
        return _decoded(data or b"", classes)
    except Exception as fault:
        if not by_nature(fault, lambda: _decoded(data or b"", classes)):
            raise
        raise ResultUnreadableError(
            f"{scope} failed with an exception that was remembered, and this call cannot rebuild it ({fault}): name the "
            f"class in remember= and see that its module is imported, or forget the key",
            scope=scope,
            codec=EXCEPTION,
        ) from fault


def _packed(error: Exception, classes: tuple[type[Exception], ...], limit: int) -> tuple[bytes, str | None]:
    """Return its bytes, and what they would make of it that it is not; of too many nobody asks."""
    data = _encoded(error)
    return data, None if len(data) > limit else _changed(error, _decoded(data, classes))


def _refused(error: Exception, scope: str, why: str) -> ResultNotSerializableError:
    return ResultNotSerializableError(
        f"{type(error).__name__}, which {scope} is to remember, cannot be stored: {why}. Give it plain arguments and "
        f"attributes, or leave it out of remember=; the effect was rolled back and nothing is remembered",
        scope=scope,
    )


def _state(error: BaseException) -> dict[str, Any]:
    state = {name: value for name, value in held(error).items() if not name.startswith(MARK)}
    if isinstance(error, AttributeError):
        state.pop("obj", None)  # what lacked the attribute: a hint for the traceback, and rarely plain
    return state


def _encoded(error: Exception) -> bytes:
    args = [_part(f"args[{number}]", value) for number, value in enumerate(error.args)]
    state = [[name, _part(f"the attribute {name}", value)] for name, value in _state(error).items()]
    return msgspec.json.encode([identity(type(error)), args, state])


def _part(name: str, value: Any) -> Any:
    try:
        return tagged(value)
    except TypeError as fault:
        raise TypeError(f"{name} holds {fault}") from None


def _decoded(data: bytes, classes: tuple[type[Exception], ...]) -> Exception:
    name, args, state = msgspec.json.decode(data, type=tuple[str, list[Any], list[tuple[str, Any]]])
    cls = loaded(name, classes)
    # Not cls(*args): a class may take other arguments than those that it hands to Exception. No code of it runs.
    base = cls
    while base.__flags__ & _HEAP_TYPE:
        base = base.__base__
    error: Exception = base.__new__(cls)
    object.__setattr__(error, "args", tuple(map(untagged, args)))  # a frozen dataclass has a __setattr__ that raises
    beside, fresh = members(cls), held(error)
    for name, written in state:
        value = untagged(written)
        if name not in beside:
            vars(error)[name] = value
        elif (
            name not in fresh or difference(value, fresh[name]) is not None
        ):  # an OSError's None is not one that was set
            beside[name].__set__(error, value)
    return error


def _changed(error: Exception, back: Exception) -> str | None:
    if type(back) is not type(error):
        return f"another class is called {identity(type(error))}"
    if (found := difference(error.args, back.args)) is not None:
        return f"args{found}"
    mine, theirs = _state(error), _state(back)
    for name in {**mine, **theirs}:
        if name not in mine or name not in theirs:
            return f"the attribute {name} does not come back"
        if (found := difference(mine[name], theirs[name])) is not None:
            return f"the attribute {name}{found}"
    return None if str(back) == str(error) else "it comes back with another text"
