"""An exception that a signal handler raises in the middle of the library's work is raised, and nothing in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from idemtable import ResultNotSerializableError, ResultUnreadableError
from idemtable.codecs import JSON
from idemtable.dialects import known
from tests.support.database import Database, effect


class TimeLimit(Exception):
    """An ``Exception``, as Celery's is when a task's time is over."""


class Ringing:
    """Raises once, as a signal does, where it was told to; or each time, as what it stands for may."""

    def __init__(self) -> None:
        self.at: str | None = None
        self.each_time = False

    def __call__(self, step: str) -> None:
        if self.at == step:
            if not self.each_time:
                self.at = None
            raise TimeLimit(step)


class Codec:
    """The library's own, in the middle of which somebody rings."""

    name = "ringing"

    def __init__(self, ringing: Ringing) -> None:
        self._ringing = ringing

    def carrier(self, returns: Any) -> Any:
        inner, ringing = JSON.carrier(returns), self._ringing

        class Carrier:
            def encode(self, value: Any) -> bytes:
                ringing("encode")
                return inner.encode(value)

            def decode(self, data: bytes) -> Any:
                ringing("decode")
                return inner.decode(data)

        return Carrier()


class Seal:
    """No seal, in the middle of which somebody rings."""

    def __init__(self, ringing: Ringing) -> None:
        self._ringing = ringing

    def seal(self, data: bytes, context: Any) -> bytes:
        return data

    def open(self, data: bytes, context: Any) -> bytes:
        self._ringing("open")
        return data


def each_form(db: Database, idem: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    order: Any = idem.transactional("limits", key="name", returns=int)(effect)

    def block() -> Any:
        with idem.transaction("limits", "block", returns=int) as claim:
            if not claim.replayed:
                claim.result = db.on(claim.session, lambda session: effect(session, "block"))
            return claim.result

    def joined() -> Any:
        with db.session() as held:
            value = order.join(held.session, "joined")
            held.commit()
            return value

    yield "own", lambda: order("own")
    yield "block", block
    yield "joined", joined


@pytest.mark.parametrize("step", ["encode", "decode"])
def test_a_time_limit_while_a_result_is_packed_is_raised_and_undoes_all(db: Database, step: str) -> None:
    ringing = Ringing()
    for name, call in each_form(db, db.table(codec=Codec(ringing))):
        ringing.at = step
        with pytest.raises(TimeLimit):
            call()
        assert db.effects(name) == []
        assert call() == call()
        assert db.effects(name) == [name]


@pytest.mark.parametrize("step", ["decode", "open"])
def test_a_time_limit_while_a_result_is_read_is_raised_and_the_next_replay_has_it(db: Database, step: str) -> None:
    ringing = Ringing()
    for name, call in each_form(db, db.table(codec=Codec(ringing), seal=Seal(ringing))):
        first = call()
        ringing.at = step
        with pytest.raises(TimeLimit):
            call()
        assert call() == first
        assert db.effects(name) == [name]


def test_what_a_codec_or_a_seal_raises_by_nature_is_still_told_as_that(db: Database) -> None:
    ringing = Ringing()
    idem = db.table(codec=Codec(ringing), seal=Seal(ringing))
    for _, call in each_form(db, idem):
        ringing.each_time, ringing.at = True, "encode"
        with pytest.raises(ResultNotSerializableError, match="TimeLimit") as caught:
            call()
        assert isinstance(caught.value.__cause__, TimeLimit)
        ringing.at = None
        call()
        for step in ("decode", "open"):
            ringing.at = step
            with pytest.raises(ResultUnreadableError) as unread:
                call()
            assert isinstance(unread.value.__cause__, TimeLimit)


def test_a_time_limit_while_the_transaction_is_looked_at_is_raised(db: Database, monkeypatch: Any) -> None:
    ringing = Ringing()
    for kind in {kind for dialect in known.values() for kind in dialect.__mro__ if "in_transaction" in vars(kind)}:

        def told(self: Any, connection: Any, original: Any = kind.in_transaction) -> bool:  # type: ignore[attr-defined]
            ringing("look")
            return bool(original(self, connection))

        monkeypatch.setattr(kind, "in_transaction", told)
    for name, call in each_form(db, db.idem):
        ringing.at = "look"
        with pytest.raises(TimeLimit):
            call()
        assert db.effects(name) == []
        call()
