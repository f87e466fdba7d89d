"""State machines: a step is taken once, and only from a state that allows it; an event is applied once."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Protocol, overload

import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import InstrumentedAttribute

from ..binding import unscoped
from ..claim.call import Keys
from ..claim.explained import explained
from ..claim.run import Run
from ..errors import IllegalTransitionError, InProgressError
from ..fingerprint import fingerprint
from ..keys import MAX_BYTES, checked_key
from ..settings import Settings
from ._diagram import diagram
from ._endings import endings
from ._rows import Rows, dispatch

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

_LOOKS: Final = 8
"""How often a step looks again when the row came into an allowed state after its UPDATE had missed it."""

_GONE: Final = object()
"""In place of the state of a row that is not there: a column may hold NULL."""


class Remembers(Protocol):
    """An IdemTable or AsyncIdemTable: where events are remembered."""

    _settings: Settings


@dataclass(frozen=True, slots=True)
class Advance:
    """What a step did: whether it moved the row, and the state the row had before."""

    moved: bool
    state_before: Any


class StateMachine:
    """The states of a column and the steps between them.

    Args:
        column: an attribute of a mapped class, such as ``Order.status``, or a column of a Table.
        transitions: for each state those it may become. A state that leads nowhere needs no entry. In an Enum column
            states are members, their values or their names.
        idem: the table that remembers events, for every `advance` with an ``event_id``.

    Raises:
        ValueError: there is no step at all, a step leads from a state to itself (being there already is
            ``moved=False``), or an Enum column has no such state.
        TypeError: the column is none, or is the primary key or the mapper's version; the targets of a state are not a
            collection of values; `idem` is no table.
    """

    def __init__(
        self, column: Any, transitions: Mapping[Any, Collection[Any]], *, idem: Remembers | None = None
    ) -> None:
        plain, mapper = column, None
        if isinstance(column, InstrumentedAttribute) and isinstance(column.class_, type):
            plain, mapper = column.expression, column.parent
        if not isinstance(plain, sa.Column) or not isinstance(plain.table, sa.Table):
            raise TypeError(
                f"a state machine takes an attribute such as Order.status or a Table's column, not {column!r}"
            )
        counts = mapper is not None and mapper.version_id_col is not None and hash(mapper.version_id_col) == hash(plain)
        if plain.primary_key or counts:
            raise TypeError(f"{column} is the {'version' if counts else 'primary key'} of its row, and no state")
        self._model: Any = plain.table if mapper is None else column.class_
        self._column = column
        self._idem = _checked_table(idem)
        self._rows: Rows | None = None
        self._steps = self._checked(transitions)
        reached = [to for targets in self._steps.values() for to in targets]
        self._states = tuple(dict.fromkeys([*self._steps, *reached]))
        self._by_label = {_label(state): state for state in self._states}

    def __repr__(self) -> str:
        return f"StateMachine({self._column}, {len(self._states)} states)"

    def _checked(self, transitions: Mapping[Any, Collection[Any]]) -> dict[Any, tuple[Any, ...]]:
        if not isinstance(transitions, Mapping):
            raise TypeError(f"transitions are a mapping of each state to those it may become, not {transitions!r}")
        steps: dict[Any, tuple[Any, ...]] = {}
        for name, targets in transitions.items():
            if isinstance(targets, str | bytes | bytearray | memoryview | Enum) or not isinstance(targets, Collection):
                raise TypeError(f"the targets of {name!r} are a set such as {{'paid'}}, not {targets!r}")
            state = self._state(name)
            if state in steps:
                raise ValueError(f"the state {name!r} has two entries")
            # A set has no order of its own: sorted, so that diagrams and messages are the same in every process.
            steps[state] = tuple(sorted({self._state(target) for target in targets}, key=self._place))
            if state in steps[state]:
                raise ValueError(f"{name!r} leads to itself: a row that is there already stays there, with moved=False")
        if not any(steps.values()):
            raise ValueError("a state machine needs at least one step")
        return steps

    def _state(self, value: Any) -> Any:
        """Return a state as the column gives it; ValueError for one that an Enum column does not have."""
        type_ = self._column.type
        if isinstance(type_, sa.Enum):
            if (members := type_.enum_class) is None:
                value = value.value if isinstance(value, Enum) else value
                if value in type_.enums:
                    return value
                known = type_.enums
            else:
                if isinstance(value, members):
                    return value
                for member in members.__members__.values():
                    if not isinstance(value, Enum) and member.value == value:
                        return member
                if isinstance(value, str) and value in members.__members__:
                    return members[value]
                known = list(members.__members__)
            raise ValueError(f"{self._column} has no state {value!r}; it has {', '.join(map(repr, known))}")
        if isinstance(value, Enum) and not isinstance(type_, sa.TypeDecorator):
            value = value.value  # psycopg would send the member's name
        if value is None:
            raise ValueError("None is no state")
        if not isinstance(value, Hashable):
            raise TypeError(f"a state is one value, not {value!r}")
        return value

    def _place(self, state: Any) -> tuple[int, str]:
        members = list(type(state)) if isinstance(state, Enum) else []
        return (members.index(state) if state in members else 0, _label(state))

    @overload
    def advance(
        self, session: Session, ident: Any, *, to: Any, event_id: Any = None, idem: Remembers | None = None
    ) -> Advance: ...
    @overload
    def advance(
        self, session: AsyncSession, ident: Any, *, to: Any, event_id: Any = None, idem: Remembers | None = None
    ) -> Awaitable[Advance]: ...
    def advance(
        self,
        session: Session | AsyncSession,
        ident: Any,
        *,
        to: Any,
        event_id: Any = None,
        idem: Remembers | None = None,
    ) -> Advance | Awaitable[Advance]:
        """Move a row to a state, if the state it has allows it.

        One ``UPDATE … WHERE state IN (…)``; where several states lead to `to`, a locking SELECT before it finds out
        which it was (on SQLite, which has no such SELECT, after a statement that takes the write lock). One SELECT more
        where nothing moved, and one where the session already holds the object, which then shows the new state. A
        version that the mapper counts is counted up. What is pending in the session is flushed first.

        Args:
            session: in whose transaction; the caller commits. An AsyncSession makes the result awaitable.
            ident: the primary key: a value of its column's type (a UUID may be its text), or for a composite key a tuple or
                a mapping by name.
            to: the state to move to.
            event_id: what asks for the step, 1 to 255 bytes of UTF-8 or a ``uuid.UUID``. The same event for the same
                row is applied once, for as long as the table keeps its records, wherever the row has gone since. Of a
                key that is neither an integer nor a UUID the row is asked first how it spells it.
            idem: the table that remembers events, if not the machine's own.

        Returns:
            ``moved=False`` when the row was in that state already, or the event was applied before; then
            `state_before` is what it was when the event was first applied.

        Raises:
            IllegalTransitionError: the state found does not lead there; ``None`` when the row is gone or has none, which
                the message tells apart. The event is not remembered.
            FingerprintMismatchError: the same event asked for another state before.
            RetryTransactionError: the transaction cannot go on, for a deadlock or because the row was changed after it
                began to read: roll it back and begin again.
            InProgressError, SessionNotUsableError, SchemaError: as `IdemTable.claim`, with an event only.
            ValueError: no such state; the event is no usable key; the state of the session's object was changed and not
                flushed, which a flush would write from any state.
            TypeError: an event without a table to remember it in, or `idem` is none; the key is not of its column's type.
        """
        rows = self._resolved()
        key = rows.ident(ident)
        target = self._state(to)
        if target not in self._states:
            known = ", ".join(repr(_label(state)) for state in self._states)
            raise ValueError(f"{self._column} has no state {_label(target)!r}; its machine knows {known}")
        event = None if event_id is None else checked_key(event_id, what="event_id")
        table = self._idem if idem is None else _checked_table(idem)
        if event is not None and table is None:
            raise TypeError("an event_id needs a table to be remembered in: pass idem=, or use idem.machine(…)")

        def work(sync: Session) -> Advance:
            self._refuse_pending(sync, rows, key)
            sync.flush()
            with sync.no_autoflush:
                if event is None or table is None:
                    return self._move(sync, rows, key, target)
                return self._once(sync, unscoped(session), rows, key, target, event, table._settings)

        return dispatch(session, work)

    def _resolved(self) -> Rows:
        # Not in __init__: a module that makes its machine may be imported before the classes that its mapper names.
        if self._rows is None:
            self._rows = Rows(self._model)
        return self._rows

    def _refuse_pending(self, session: Session, rows: Rows, key: tuple[Any, ...]) -> None:
        held = rows.changed(session, key)
        if held is not None and sa.inspect(held).attrs[self._column.key].history.has_changes():
            raise ValueError(
                f"the state of {rows.spell(key)} was changed and not flushed, and a flush would write it from any "
                f"state: leave the change to advance()"
            )

    def _move(self, session: Session, rows: Rows, key: tuple[Any, ...], to: Any) -> Advance:
        with endings(rows.connection(session), rows.dialect(session), rows.spell(key)):
            return self._moved(session, rows, key, to)

    def _moved(self, session: Session, rows: Rows, key: tuple[Any, ...], to: Any) -> Advance:
        column = rows.column(self._column, "column")
        sources = [state for state, targets in self._steps.items() if to in targets]
        dialect = rows.dialect(session)
        # The database compares, here as in the UPDATE: by a collation, or a CHAR without the blanks that fill it.
        which = sa.case(*((column == state, number) for number, state in enumerate(self._states)))
        one = sa.select(column, which).where(rows.where(key))

        def read(statement: sa.Select[Any]) -> Any:
            row: Any = rows.execute(session, statement).one_or_none()
            if row is None:
                return _GONE
            return row[0] if row[1] is None or row[0] in self._states else self._states[row[1]]

        for _ in range(_LOOKS):
            if len(sources) > 1:
                # Only what is locked is still the same when the UPDATE comes.
                dialect.lock_writes(rows.connection(session), rows.table)
                before = read(one.with_for_update())
            else:
                before = sources[0] if sources else None
            if before in sources:
                step = sa.update(rows.table).where(rows.where(key), column.in_(sources))
                if rows.execute(session, step.values({column: to, **_counted(rows)})).rowcount == 1:
                    rows.refresh(session, key)
                    return Advance(True, before)
            if len(sources) <= 1:
                before = read(dialect.latest(one))
            if before == to:
                rows.show(session, key, self._column.key, before)
                return Advance(False, before)
            if before not in sources:
                break
        rows.renew(session, key)
        allowed = self._steps.get(before, ())
        where = "is gone" if before is _GONE else "has no state" if before is None else f"is {_label(before)!r}"
        may = ", ".join(repr(_label(state)) for state in allowed) or "nothing"
        raise IllegalTransitionError(
            f"{rows.spell(key)} {where} and cannot become {_label(to)!r}; from there it may become {may}",
            state=None if before is _GONE else before,
            to=to,
            allowed=allowed,
        )

    def _once(
        self, session: Session, joinable: Any, rows: Rows, key: tuple[Any, ...], to: Any, event: str, settings: Settings
    ) -> Advance:
        """Claim the event, move, and store the state before, all in the caller's transaction."""
        scope = f"machine:{rows.table.fullname}.{rows.column(self._column, 'column').name}"
        with suppress(InvalidRequestError):  # of a session that cannot be used the claim tells why
            key = self._own(session, rows, key, scope, settings)
        name = json.dumps([*map(str, key), event], ensure_ascii=False)
        if len(name.encode()) > MAX_BYTES:
            name = sha256(name.encode()).hexdigest()
        call = Keys(settings, scope, str).call(name, None, partial(fingerprint, _label(to)))
        moved: list[Advance] = []

        def move(session: Session) -> str:
            moved.append(self._move(session, rows, key, to))
            return _label(moved[0].state_before)

        before = Run(settings, call).inside(session, move, joinable).value
        return moved[0] if moved else Advance(False, self._by_label.get(before, before))

    def _own(
        self, session: Session, rows: Rows, key: tuple[Any, ...], scope: str, settings: Settings
    ) -> tuple[Any, ...]:
        """Return the row's key in the one spelling by which its events are known."""
        if rows.is_exact:
            return key
        connection = rows.connection(session)
        records = settings.place.records_of(connection, session)
        with explained(settings, scope, records.dialect, repeats=False):
            records.dialect.join(connection, settings.wait)  # the claim would come too late behind what is read here

        def busy(what: str) -> InProgressError:
            return InProgressError(
                f"{scope}: another transaction holds {what}; try again later", scope=scope, retry_after=1.0
            )

        return rows.own(session, key, busy)

    def diagram(self) -> str:
        """Return the machine as the text of a Mermaid state diagram, the same in every process."""
        return diagram({_label(state): [_label(to) for to in self._steps.get(state, ())] for state in self._states})


def _checked_table(idem: Any) -> Remembers | None:
    if idem is not None and not isinstance(getattr(idem, "_settings", None), Settings):
        raise TypeError(f"idem= takes an IdemTable or an AsyncIdemTable, not {idem!r}")
    return idem  # type: ignore[no-any-return]


def _label(state: Any) -> str:
    return state.name if isinstance(state, Enum) else str(state)


def _counted(rows: Rows) -> dict[Any, Any]:
    """Count up the version that the mapper counts: an UPDATE past the unit of work must do so itself."""
    mapper = rows.mapper
    if mapper is None or mapper.version_id_col is None or mapper.version_id_generator is False:
        return {}
    column: Any = mapper.version_id_col
    generator: Callable[[Any], Any] = mapper.version_id_generator  # type: ignore[assignment]
    return {column: column + 1 if isinstance(column.type, sa.Integer) else generator(None)}
