"""What a request carries that an application may change, as it was before the first attempt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import MutableMapping
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
        self._look([value for name, value in around.items() if "session" in name], objects=True)

    def _look(self, values: list[Any], *, objects: bool) -> None:
        while values:
            value = values.pop()
            if type(value) is tuple:
                values.extend(value)
                continue
            kind = next((one for one in _FILL if isinstance(value, one)), None)
            if id(value) in self._seen or not (kind or (objects and hasattr(type(value), "__setitem__"))):
                continue
            self._seen.add(id(value))
            if kind is not None:
                contents = _contents(kind, value)
                self._found.append((value, kind, contents))
                values.extend(contents)
            if (attributes := getattr(value, "__dict__", None)) is not None:
                values.append(attributes)

    def restore(self) -> None:
        """Put back what has changed."""
        for value, kind, contents in self._found:
            now = _contents(kind, value)
            # What is as it was is not touched: another request may be reading it.
            if len(now) != len(contents) or any(one is not other for one, other in zip(now, contents, strict=True)):
                kind.clear(value)
                _FILL[kind](value, contents)


def _contents(kind: Any, value: Any) -> list[Any]:
    return [*kind.keys(value), *kind.values(value)] if issubclass(kind, dict) else list(kind.__iter__(value))


def _filled(kind: Any) -> Any:
    def fill(value: Any, contents: list[Any]) -> None:
        half = len(contents) // 2
        for name, item in zip(contents[:half], contents[half:], strict=True):
            kind.__setitem__(value, name, item)

    return fill


# Their own methods: those of a subclass do more, as those of a session that then says it was changed.
_FILL: Final[dict[Any, Any]] = {
    OrderedDict: _filled(OrderedDict),
    dict: _filled(dict),
    list: list.extend,
    set: set.update,
}
