"""Several statements in one packet, for PostgreSQL through psycopg: BEGIN travels with the first, COMMIT with the last.

Sent one by one, a first execution waits for the network twice more than the business alone: for the claim and for the
store. In one packet with what must be sent anyway they cost no wait at all. psycopg's own ``pipeline()`` would do it too,
and takes 70 to 150 microseconds of Python a block, which is more than the waits that it spares on one machine: so libpq's
pipeline mode is used as psycopg hands it out, by ``Connection.pgconn`` and ``Connection.wait``.

What is unusual about a connection keeps it on the plain way, statement by statement through the driver's cursor: see
`line_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .datestyle import style_of
from .libpq import Packet
from .statement import fail, is_listened_to
from .words import driver_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

# libpq's numbers.
_IDLE: Final = 0
_SENDABLE: Final = (_IDLE, 2)
_DONE: Final = (1, 2)
_SYNC: Final = 10
_BAD: Final = 1
# psycopg's words for what a generator waits for, and for what its book of prepared statements says.
_READ: Final = 1
_READ_OR_WRITE: Final = 3
_PLAIN: Final = 1

_RENEWED: Final = 1000
"""After so many uses a statement is prepared anew. PostgreSQL keeps the plan of a prepared statement until the table is
analysed, and one that was made when the table was small reads it whole however large it has become. To prepare takes no
longer than half a call."""
_FORGOTTEN: Final = ("26000", "42P05")
"""A prepared statement is not there, or is there already: a pooler has put another of its connections behind this one."""


Part = tuple[Packet, Mapping[str, Any]]
_Encoded = list[tuple[Packet, list[bytes | None]]]
_Sending = Generator[int, int, list[Any]]


class Line:
    """What can be sent at once on one connection of psycopg's.

    Args:
        driver: the connection.
        bridge: waits for what an async connection returns.
    """

    __slots__ = ("_bridge", "_cursor", "_pgconn", "_reader", "_remembers", "_uses", "driver")

    def __init__(self, driver: Any, bridge: Callable[[Any], Any] | None) -> None:
        self.driver = driver
        self._bridge = bridge
        self._cursor = driver.cursor_factory
        self._pgconn = driver.pgconn
        self._reader: tuple[bytes | None, Any] = None, None
        """What reads results, and the DateStyle that it was made for. To find out how takes it longer than to read one."""
        self._remembers = True
        """Whether the server knows on the next packet what was prepared on this one."""
        self._uses: dict[Packet, int] = {}

    @property
    def is_async(self) -> bool:
        """Whether what the driver returns is to be awaited."""
        return self._bridge is not None

    @property
    def is_idle(self) -> bool:
        """Whether no transaction is open."""
        return bool(self._pgconn.transaction_status == _IDLE)

    @property
    def is_free(self) -> bool:
        """Whether something can be sent on it now, as `line_of` says."""
        pgconn, driver = self._pgconn, self.driver
        return (
            pgconn.transaction_status in _SENDABLE
            and not driver._autocommit
            and driver.cursor_factory is self._cursor
            and not pgconn.pipeline_status
            and not driver._num_transactions
            and pgconn.parameter_status(b"client_encoding") == b"UTF8"
        )

    def send(self, connection: Connection, part: Part, *, begin: bool = True, end: bytes | None = None) -> Any:
        """Send a statement, with BEGIN before it where no transaction is open.

        Args:
            connection: whose line it is.
            part: the statement and its values.
            begin: whether it needs a transaction that outlasts it.
            end: ``ROLLBACK``, where the transaction is to end with it. What psycopg does at a ROLLBACK of its own is to
                forget all that is prepared, and have the server forget it: right where a table may have been made and
                undone, and not where nothing but a claim was tried.

        Returns:
            libpq's result.

        Raises:
            sqlalchemy.exc.DBAPIError: as SQLAlchemy itself would.
        """
        for answer in (answers := self._sent(connection, part, begin, end)):
            if answer.status not in _DONE:
                self._refuse(connection, answer, part)
        return answers[0]

    def commit_with(self, connection: Connection, part: Part, refusals: Sequence[str] = ()) -> Any:
        """Send the last statement with COMMIT behind it.

        Args:
            connection: whose line it is.
            part: the statement, which fails by itself where nothing may be committed: nobody is asked in between.
            refusals: the codes with which it does.

        Returns:
            libpq's result of it; ``None`` where it was not committed: it was refused, or the transaction had failed before.

        Raises:
            sqlalchemy.exc.DBAPIError: as SQLAlchemy itself would.
        """
        last, commit = self._sent(connection, part, True, b"COMMIT")
        if last.status not in _DONE:
            if _state(last) in refusals:
                return None
            self._refuse(connection, last, part)
        if commit.status not in _DONE:
            self._refuse(connection, commit, None)
        # An aborted transaction answers COMMIT with ROLLBACK, and that is no error.
        return last if commit.command_status == b"COMMIT" else None

    def queue(self, part: Part) -> Heard:
        """Put BEGIN and a statement into psycopg's own pipeline, which is open, in front of what a cursor puts there next.

        Returns:
            What hears its answer. The pipeline raises an error of the server's.
        """
        packet, values = part
        self._pgconn.send_query_params(self.begin, None)
        before, note = self._put(packet, packet.encoded(values))
        heard = Heard(self, note)
        # One entry for each answer that will come, in their order; of a step on the way the pipeline hears only an error.
        self.driver._pipeline.result_queue.extend((*[None] * (1 + before), (heard, None)))
        return heard

    def rows(self, answer: Any) -> list[Any]:
        """Return the rows of a result, with values as the driver's own cursor gives them."""
        style, (known, reader) = self._pgconn.parameter_status(b"DateStyle"), self._reader
        if reader is None or known != style:
            from psycopg.adapt import Transformer

            reader = Transformer(self.driver)
            self._reader = style, reader
        reader.set_pgresult(answer)
        try:
            return reader.load_rows(0, answer.ntuples, tuple)  # type: ignore[no-any-return]
        finally:
            reader.set_pgresult(None)

    def _refuse(self, connection: Connection, answer: Any, part: Part | None) -> None:
        """Raise the error that a result is."""
        import psycopg

        sql, values = (None, None) if part is None else (part[0].text, part[1])
        try:
            raise self.error(answer)
        except psycopg.Error as error:
            fail(connection, error, sql, values)

    def error(self, answer: Any) -> Exception:
        """Return the error of psycopg's that a result is."""
        import psycopg

        if _state(answer) in _FORGOTTEN:
            self._remembers = False
        return psycopg.errors.error_from_result(answer, self.driver.info.encoding)

    # --- on the wire ------------------------------------------------------------------------------------------------------

    def _sent(self, connection: Connection, part: Part, begin: bool, end: bytes | None) -> list[Any]:
        packet, values = part
        sending = self._travel(packet, packet.encoded(values), begin, end)
        try:
            if self._bridge is not None:
                return self._bridge(self._asend(sending))  # type: ignore[no-any-return]
            with self.driver.lock:
                return self.driver.wait(sending)  # type: ignore[no-any-return]
        except BaseException as error:
            fail(connection, error, None, None)

    async def _asend(self, sending: _Sending) -> list[Any]:
        async with self.driver.lock:
            return await self.driver.wait(sending)  # type: ignore[no-any-return]

    def _travel(self, packet: Packet, values: list[bytes | None], begin: bool, end: bytes | None) -> _Sending:
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        before = 0
        if begin and pgconn.transaction_status == _IDLE:
            pgconn.send_query_params(self.begin, None)
            before = 1
        more, note = self._put(packet, values)
        before += more
        if end is not None:
            pgconn.send_query_params(end, None)
        pgconn.pipeline_sync()
        while pgconn.flush():
            if (yield _READ_OR_WRITE) & _READ:
                pgconn.consume_input()
        answers: list[Any] = []
        failed = None
        is_busy, get_result = pgconn.is_busy, pgconn.get_result
        while True:
            # get_result() would wait by itself, and would keep all other threads from running meanwhile.
            while is_busy():
                yield _READ
                try:
                    pgconn.consume_input()
                except Exception:
                    if failed is None:
                        raise
                    break  # after the server has said why it hangs up, which this error does not
            answer = get_result()
            if answer is None:  # between the results of two statements
                if pgconn.status == _BAD:
                    break
                continue
            status = answer.status
            if status == _SYNC:
                # Not before: what is left unread would be taken for the answer to what is sent next.
                pgconn.exit_pipeline_mode()
                break
            if failed is None and status not in _DONE:
                failed = answer
            answers.append(answer)
        asked = 1 if end is None else 2
        if failed is None and len(answers) < before + asked:
            import psycopg

            raise psycopg.OperationalError("the connection was lost before the server had answered")
        if failed is not None and failed in answers[: before + 1]:
            return [failed] * asked  # also where it was a step on the way: nothing after it was done
        if note is not None:
            note()
        return answers[before:] if failed is None else [answers[before], failed]

    def _put(self, packet: Packet, values: list[bytes | None]) -> tuple[int, Callable[[], object] | None]:
        """Queue a statement, and have it prepared when psycopg would.

        In psycopg's own book: what is prepared is forgotten with its own, after a ROLLBACK and whenever it is told to.

        Returns:
            How many steps come before it, and what is to be noted once it was done.
        """
        pgconn, book = self._pgconn, self.driver._prepared
        before = 0
        # What its `get` looks for first, without the two calls.
        if self._remembers and (name := book._names.get(packet.key)) and book.prepare_threshold is not None:
            used = self._uses[packet] = self._uses.get(packet, 0) + 1
            if used % _RENEWED:
                pgconn.send_query_prepared(name, values, packet.formats)
                return 0, None
            pgconn.send_query_params(b"DEALLOCATE " + name, None)
            before = 1
            del book._names[packet.key]
            prepare = _PLAIN
        else:
            prepare, name = book.get(packet) if self._remembers else (_PLAIN, b"")
        if prepare == _PLAIN:
            pgconn.send_query_params(packet.query, values, None, packet.formats)
        else:
            pgconn.send_prepare(name, packet.query)
            before = 1
            pgconn.send_query_prepared(name, values, packet.formats)
        return before, partial(book.maybe_add_to_cache, packet, prepare, name)

    @property
    def begin(self) -> bytes:
        """How a transaction begins on it."""
        return self.driver._get_tx_start_command()  # type: ignore[no-any-return]  # kept until a part of it is changed


class Heard:
    """What psycopg's pipeline gives the answer to a statement to, in place of a cursor: one costs as much as the claim."""

    __slots__ = ("_line", "_note", "is_done")

    def __init__(self, line: Line, note: Callable[[], object] | None) -> None:
        self._line, self._note = line, note
        self.is_done = False

    def _check_results(self, results: Sequence[Any]) -> None:
        for answer in results:
            if answer.status not in _DONE:
                raise self._line.error(answer)

    def _set_results(self, results: Sequence[Any]) -> None:
        self.is_done = True
        if self._note is not None:
            self._note()


def _state(answer: Any) -> str:
    from psycopg.pq import DiagnosticField

    return (answer.error_field(DiagnosticField.SQLSTATE) or b"").decode()


_MARK: Final = "_idemtable_line"
_unknown: Any = object()


def line_of(connection: Connection) -> Line | None:
    """Return the line of a connection, or ``None`` where statements must go one by one.

    They must where somebody listens to statements, or has a cursor class of their own (tracing at the driver); in
    AUTOCOMMIT, in a transaction that has failed, inside psycopg's own ``pipeline()`` or ``transaction()``; with another
    encoding than UTF-8; with a libpq older than 14; and where psycopg could not read the DateStyle when it was first asked.
    """
    if is_listened_to(connection):
        return None
    driver: Any = driver_of(connection)
    line = getattr(driver, _MARK, _unknown)
    if line is _unknown:
        line = _made(driver)
        setattr(driver, _MARK, line)
    return line if line is not None and line.is_free else None


def _made(driver: Any) -> Line | None:
    import psycopg

    if not psycopg.Pipeline.is_supported() or style_of(driver) is not None:
        return None
    if type(driver) is psycopg.Connection and driver.cursor_factory is psycopg.Cursor:
        return Line(driver, None)
    if type(driver) is psycopg.AsyncConnection and driver.cursor_factory is psycopg.AsyncCursor:
        from sqlalchemy.util import await_only

        return Line(driver, await_only)
    return None
