"""What is put back into a scope or environ, and what is left alone."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import pytest

from idemtable.web.before import Before


class Loud(dict[str, Any]):
    """Whose own methods must not be called by whoever puts it back."""

    def __setitem__(self, name: str, value: Any) -> None:
        raise AssertionError("called")

    def clear(self) -> None:
        raise AssertionError("called")


def test_what_has_changed_is_put_back_into_the_same_objects_in_the_same_order() -> None:
    inner: list[Any] = [{"deep": 1}]
    scope: dict[str, Any] = {
        "ordered": OrderedDict(a=1, b=2),
        "found": defaultdict(list, x=[1]),
        "loud": Loud(a=1),
        "set": {1, 2},
        "pairs": ((b"name", inner),),
        "path": "/",
    }
    scope["itself"] = scope
    objects, before = dict(scope), Before(scope)
    scope["ordered"].move_to_end("a")
    scope["found"]["y"].append(2)
    dict.update(scope["loud"], b=2)
    scope["set"].clear()
    inner[0]["deep"] = 2
    inner.append("more")
    scope["path"] = "/elsewhere"
    scope["new"] = scope.pop("set")
    before.restore()
    assert list(scope["ordered"].items()) == [("a", 1), ("b", 2)]
    assert scope["found"] == {"x": [1]}
    assert scope["loud"] == {"a": 1}
    assert scope["set"] == {1, 2}
    assert inner == [{"deep": 1}]
    assert scope.keys() == objects.keys()
    assert all(scope[name] is value for name, value in objects.items())


def test_objects_are_left_alone_unless_they_are_a_session_that_holds_something() -> None:
    class Holder:
        def __init__(self) -> None:
            self.items: dict[str, Any] = {}

    class Session(Holder):
        def __setitem__(self, name: str, value: Any) -> None:
            self.items[name] = value

    scope: dict[Any, Any] = {
        "app": Holder(),
        "store": Session(),
        "db.session": Holder(),
        "shop.session": Session(),
        7: 7,
    }
    before = Before(scope)
    for name in ("app", "store", "db.session", "shop.session"):
        scope[name].items["a"] = 1
        scope[name].mark = 1
    before.restore()
    changed = [name for name in ("app", "store", "db.session", "shop.session") if vars(scope[name]) != {"items": {}}]
    assert changed == ["app", "store", "db.session"]


@pytest.mark.parametrize("shared", [{"cache": {}}, None])
def test_what_is_shared_is_left_alone_and_what_has_not_changed_is_not_written(shared: Any) -> None:
    class Watched(dict[str, Any]):
        pass

    scope: dict[str, Any] = {"state": shared, "config": (config := Watched(a=1))}
    before, names = Before(scope, shared="state"), iter(config)
    if shared is not None:
        shared["cache"]["of another"] = 1
    before.restore()
    assert next(names) == "a"  # a dict that was written to meanwhile would say so
    assert shared in (None, {"cache": {"of another": 1}})
