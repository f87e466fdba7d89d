"""What a request carries that an application may change, as it was before the first attempt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any, Final


class Before:
    """The contents of a scope or environ, to be put back into the same objects: whoever stands outside holds them too.

    Args:
        around: the scope or environ.
        shared: a name in it of what other requests change meanwhile; it is left alone.
    """

    def __init__(self, around: MutableMapping[str, Any], shared: str = "") -> None:
        self._found: list[tuple[Any, Any, list[Any]]] = []
        self._seen = {id(around.get(shared))}
        self._look([around], objects=False)
        # A session may also be an object that loads itself when it is asked for something. Of others nobody knows whether
        # they are the request's own.
        self._look([value for name, value in around.items() if "session" in str(name)], objects=True)

    def _look(self, values: list[Any], *, objects: bool) -> None:
        seen = self._seen
        while values:
            value = values.pop()
            cls: Any = type(value)
            if cls in _PLAIN:  # most of it: names, and the bytes of the headers
                continue
            if cls is tuple:
                values += value
                continue
            kind = _kind(cls)
            if id(value) in seen or not (kind or (objects and hasattr(cls, "__setitem__"))):
                continue
            seen.add(id(value))
            if kind is not None:
                contents = _contents(kind, value)
                self._found.append((value, kind, contents))
                values += contents
            if cls is not kind and (attributes := getattr(value, "__dict__", None)) is not None:
                values.append(attributes)

    def restore(self) -> None:
        """Put back what has changed."""
        for value, kind, contents in self._found:
            now = _contents(kind, value)
            # What is as it was is not touched: another request may be reading it.
            if len(now) != len(contents) or any(one is not other for one, other in zip(now, contents, strict=True)):
                kind.clear(value)
                _FILL[kind](value, contents)


_PLAIN: Final = frozenset({str, bytes, int, float, bool, type(None)})


@lru_cache(256)
def _kind(cls: Any) -> Any:
    return next((one for one in _FILL if issubclass(cls, one)), None)


def _contents(kind: Any, value: Any) -> list[Any]:
    if issubclass(kind, dict):
        return [part for pair in list(kind.items(value)) for part in pair]  # in one go: a thread may be adding names
    return list(kind.__iter__(value))


def _filled(kind: Any) -> Any:
    def fill(value: Any, contents: list[Any]) -> None:
        for name, item in zip(contents[::2], contents[1::2], strict=True):
            kind.__setitem__(value, name, item)

    return fill


# Their own methods: those of a subclass do more, as those of a session that then says it was changed.
_FILL: Final[dict[Any, Any]] = {
    OrderedDict: _filled(OrderedDict),
    dict: _filled(dict),
    list: list.extend,
    set: set.update,
}
