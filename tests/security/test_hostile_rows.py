"""S6: whatever somebody wrote into a row, to read it imports nothing, runs nothing and falls back to nothing."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from idemtable import ResultUnreadableError
from idemtable.codecs import register
from tests.support.database import Database, effect

WATCHED = (
    "import", "exec", "compile", "open", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class",
    "marshal.loads", "ctypes.dlopen", "socket.connect",
)  # fmt: skip
_heard: list[str] | None = None


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _heard is not None and event in WATCHED:
        _heard.append(f"{event} {args[0]!r}")


sys.addaudithook(_hear)  # which nothing can take off again


@contextmanager
def audited() -> Iterator[list[str]]:
    """What the interpreter says meanwhile that it does."""
    global _heard
    _heard = heard = []
    try:
        yield heard
    finally:
        _heard = None


class Bomb:
    def __reduce__(self) -> Any:
        return (__import__, ("this",))


@dataclass
class Receipt:
    id: int


class Declined(Exception):
    pass


PICKLED = pickle.dumps(Bomb())
RESULTS = {
    "pickle": PICKLED,
    "pickle of the oldest protocol": b"cos\nsystem\n(S'true'\ntR.",
    "jsonpickle": b'{"py/object": "subprocess.Popen", "py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["true"]}]}',
    "a constructor": b'{"lc": 2, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "true"}}',
    "a class": b'{"__class__": "os._wrap_close", "__module__": "os", "id": 1, "$type": "Bomb"}',
    "yaml": b"!!python/object/apply:os.system ['true']",
    "msgpack": b"\xc7\x05\x05os.sy",
    "marshal": b"\xe3\x00\x00\x00\x00",
    "nested too deep": b"[" * 100_000,
    "a number without end": b'{"id": 1' + b"0" * 5_000 + b"}",
    "no text": b"\xff\xfe\x00",
}
CODECS = ["pickle", "jsonpickle", "msgpack", "builtins.eval", "os", "../json", "JSON", "json ", "exception", "", None]
REMEMBERED = [
    b'["os.system", ["true"], []]',
    b'["builtins.SystemExit", [0], []]',
    b'["subprocess.CalledProcessError", [1, "true"], []]',
    b'["tests.security.test_hostile_rows.Bomb", [], []]',
    b'["idemtable.errors.UnknownTokenError", ["no"], []]',
    PICKLED,
]


@pytest.fixture
def calls(db: Database) -> dict[str, Any]:
    """Three functions that have each stored a result or an exception once, and what ran since."""
    runs: list[str] = []
    db.dispose(db.engine)  # one connection for all that follows, and none that an earlier test has killed in the pool

    @db.idem.transactional("security.typed", key="key")
    def typed(session: Any, key: str) -> Receipt:
        runs.append(key)
        return Receipt(effect(session, key))

    @db.idem.transactional("security.plain", key="key", remember=(Declined,))
    def plain(session: Any, key: str) -> dict[str, int]:
        runs.append(key)
        return {"id": effect(session, key)}

    @db.idem.transactional("security.failed", key="key", remember=(Declined,))
    def failed(session: Any, key: str) -> Receipt:
        runs.append(key)
        raise Declined("no")

    typed("k"), plain("k")
    for _ in range(2):  # what is imported at a first time is here from now on, and what is compiled once
        typed("k"), plain("k")
        with pytest.raises(Declined):
            failed("k")
    db.execute("UPDATE idemtable SET codec = 'gone'")
    with pytest.raises(ResultUnreadableError):
        typed("k")
    db.execute("UPDATE idemtable SET codec = 'json' WHERE scope <> 'security.failed'")
    db.execute("UPDATE idemtable SET codec = 'exception' WHERE scope = 'security.failed'")
    runs.clear()
    return {"typed": typed, "plain": plain, "failed": failed, "runs": runs}


def test_a_hostile_result_is_refused_or_is_plain_data_and_does_nothing(db: Database, calls: dict[str, Any]) -> None:
    for name, data in RESULTS.items():
        db.execute("UPDATE idemtable SET result = :data", data=data)
        with audited() as heard:
            for call in (calls["typed"], calls["plain"], calls["failed"]):
                try:
                    value = call("k")
                except ResultUnreadableError:
                    continue
                # JSON that the type allows is data, for whoever may write to the table may write a result.
                assert type(value) in (dict, Receipt), name
        assert heard == [], name
    assert calls["runs"] == []


def test_a_codec_that_is_not_on_the_list_is_refused_and_none_is_tried_in_its_place(
    db: Database, calls: dict[str, Any]
) -> None:
    for codec in CODECS:
        for data in (b'{"id": 1}', PICKLED):
            db.execute("UPDATE idemtable SET codec = :codec, result = :data", codec=codec, data=data)
            with audited() as heard:
                for call in (calls["typed"], calls["plain"]):
                    with pytest.raises(ResultUnreadableError):
                        call("k")
            assert heard == [], codec
    assert calls["runs"] == []


def test_a_remembered_exception_is_of_a_class_that_the_function_names_or_is_refused(
    db: Database, calls: dict[str, Any]
) -> None:
    for data in REMEMBERED:
        db.execute("UPDATE idemtable SET result = :data WHERE scope = 'security.failed'", data=data)
        with audited() as heard, pytest.raises(ResultUnreadableError):
            calls["failed"]("k")
        assert heard == [], data
    assert calls["runs"] == []


class Pickled:
    """What the library does not have: a codec that believes the row."""

    name = "pickled-on-purpose"

    def encode(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def decode(self, data: bytes) -> Any:
        return pickle.loads(data)

    def carrier(self, returns: Any) -> Pickled:
        return self


def test_the_check_hears_what_a_codec_does_that_believes_the_row(db: Database) -> None:
    register(Pickled())

    @db.table(codec=Pickled()).transactional("security.pickled", key="key")
    def believes(session: Any, key: str) -> str:
        return key

    believes("k")
    db.execute("UPDATE idemtable SET result = :data", data=PICKLED)
    with audited() as heard, suppress(ResultUnreadableError):
        believes("k")
    assert any(event.startswith("pickle.find_class") for event in heard)
