"""Several servers behind one engine: whichever takes writes is found, and no other one keeps a program waiting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import idemtable
from idemtable import IdemTable, multi_host
from idemtable.claim.verdict import Verdict
from idemtable.dialects import Fault, find, hosts
from tests import servers
from tests.servers.ports import HOST, free_port
from tests.support.backends import BACKENDS, needed, server
from tests.support.crowd import WAIT, meanwhile
from tests.support.database import Database, effect
from tests.support.plain import Loop
from tests.support.proxy import Proxy, Way

DATABASE = "several_hosts"
SHORT = timedelta(seconds=1)
READ_ONLY = {"mysql": "super_read_only", "mariadb": "read_only"}
WAYS = {
    "mysql": ("mysql", "mysql+pymysql"),
    "mysql-async": ("mysql", "mysql+asyncmy"),
    "mysql-connector": ("mysql", "mysql+mysqlconnector"),
    "mariadb": ("mariadb", "mariadb+pymysql"),
}
if find_spec("MySQLdb"):
    WAYS["mariadb-mysqlclient"] = ("mariadb", "mysql+mysqldb")

_scopes = count()


class Pair:
    """Two servers of one make, the second of which can be told to take no writes."""

    def __init__(self, kind: str, first: servers.Server, second: servers.Server) -> None:
        self.kind, self.first, self.second = kind, first, second
        for one in (first, second):
            one.create_database(DATABASE)
        self._admin = sa.create_engine(second.url(DATABASE), isolation_level="AUTOCOMMIT")

    def say(self, sql: str) -> Any:
        """Run a statement on the second server, as one who may do everything."""
        with self._admin.connect() as connection:
            result = connection.exec_driver_sql(sql)
            return result.fetchall() if result.returns_rows else None

    @contextmanager
    def second_has(self, variable: str) -> Iterator[None]:
        self.say(f"SET GLOBAL {variable} = ON")
        try:
            yield
        finally:
            self.say(f"SET GLOBAL {variable} = OFF")
            self.say("SET GLOBAL read_only = OFF")  # which super_read_only has put on, and leaves

    def second_is_read_only(self) -> Any:
        return self.second_has(READ_ONLY[self.kind])

    def close(self) -> None:
        self._admin.dispose()
        self.first.drop_database(DATABASE)


@pytest.fixture(scope="module")
def pairs() -> Iterator[Callable[[str], Pair]]:
    made: dict[str, Pair] = {}

    def pair(kind: str) -> Pair:
        if kind not in made:
            with needed():
                made[kind] = Pair(kind, server(kind), {"mysql": servers.mysql, "mariadb": servers.mariadb}[kind]())
        return made[kind]

    yield pair
    for one in made.values():
        one.close()
        one.second.stop()


class Client:
    """An engine of one driver whose URL leads nowhere, in either colour."""

    def __init__(self, pair: Pair, driver: str, **connect_args: Any) -> None:
        self.pair, self.driver = pair, driver
        self.is_async = driver.endswith("asyncmy")
        url = sa.make_url(pair.first.url(DATABASE, driver)).set(port=free_port())
        if "connector" in driver:
            connect_args = {"use_pure": True, **connect_args}
        self.loop = Loop() if self.is_async else None
        make: Any = create_async_engine if self.is_async else sa.create_engine
        self.engine = make(url, poolclass=sa.NullPool, connect_args=connect_args)
        self.sync: sa.Engine = getattr(self.engine, "sync_engine", self.engine)

    def over(self, *ports: int, **options: Any) -> Client:
        assert multi_host(self.engine, [f"{HOST}:{port}" for port in ports], **options) is self.engine
        return self

    def ask(self, sql: str) -> Any:
        """Connect, and ask something with one answer."""
        if self.loop is None:
            with self.engine.connect() as connection:
                return connection.exec_driver_sql(sql).scalar_one()

        async def ask() -> Any:
            async with self.engine.connect() as connection:
                return (await connection.exec_driver_sql(sql)).scalar_one()

        return self.loop.run(ask())

    @property
    def port(self) -> int:
        return int(self.ask("SELECT @@port"))

    def close(self) -> None:
        if self.loop is None:
            self.engine.dispose()
        else:
            self.loop.run(self.engine.dispose())
            self.loop.close()


@pytest.fixture(params=WAYS)
def client(pairs: Callable[[str], Pair], request: pytest.FixtureRequest) -> Iterator[Callable[..., Client]]:
    """Makes clients of one driver, with `connect_args`."""
    kind, driver = WAYS[request.param]
    made: list[Client] = []

    def make(**connect_args: Any) -> Client:
        made.append(Client(pairs(kind), driver, **connect_args))
        return made[-1]

    yield make
    for one in made:
        one.close()


@contextmanager
def silent(pair: Pair, mark: bytes | None) -> Iterator[tuple[int, threading.Event]]:
    """A port behind which nobody answers what has the mark in it; ``None``: nobody says anything at all."""
    reached, over = threading.Event(), threading.Event()
    if mark is None:
        with socket.create_server((HOST, 0)) as listening:
            reached.set()  # the kernel accepts for a process that does not
            yield listening.getsockname()[1], reached
        return

    def hold(way: Way, chunk: bytes) -> None:
        if way is Way.TO_SERVER and mark in chunk:
            reached.set()
            over.wait(60)

    with Proxy(pair.first.port, hold) as proxy:
        try:
            yield proxy.port, reached
        finally:
            over.set()


# --- which one is taken ---------------------------------------------------------------------------------------------------


def test_a_server_that_takes_no_writes_is_passed_over(client: Callable[..., Client]) -> None:
    it = client()
    pair = it.pair
    it.over(pair.second.port, pair.first.port)
    assert it.port == pair.second.port, "the first that takes them, whatever the URL says"
    with pair.second_is_read_only():
        assert it.port == pair.first.port
    assert it.port == pair.second.port


def test_a_server_in_offline_mode_is_passed_over_by_those_whom_it_lets_in(client: Callable[..., Client]) -> None:
    it = client()
    if it.pair.kind == "mariadb":
        assert it.over(it.pair.second.port).port == it.pair.second.port  # it has no such mode
        return
    it.over(it.pair.second.port, it.pair.first.port)
    with it.pair.second_has("offline_mode"):
        assert it.port == it.pair.first.port


def test_a_dead_port_is_passed_over(client: Callable[..., Client]) -> None:
    it = client()
    assert it.over(free_port(), it.pair.first.port).port == it.pair.first.port


@pytest.mark.parametrize("mark", [None, b"", b"read_only", b"wsrep"], ids=["greeting", "login", "question", "second"])
def test_a_server_that_falls_silent_is_passed_over(client: Callable[..., Client], mark: bytes | None) -> None:
    it = client()
    with silent(it.pair, mark) as (port, reached):
        assert it.over(port, it.pair.first.port, connect_timeout=SHORT).port == it.pair.first.port
        assert reached.is_set()


@pytest.mark.parametrize("kind", READ_ONLY)
def test_a_user_without_any_right_finds_its_way(pairs: Callable[[str], Pair], kind: str) -> None:
    pair = pairs(kind)
    admins = [sa.create_engine(one.url(DATABASE)) for one in (pair.first, pair.second)]
    for admin in admins:
        with admin.begin() as connection:
            for sql in ("CREATE USER plain@'%%'", f"GRANT SELECT, INSERT ON {DATABASE}.* TO plain@'%%'"):
                connection.exec_driver_sql(sql)
    engine = sa.create_engine(sa.make_url(pair.first.url(DATABASE)).set(username="plain"), poolclass=sa.NullPool)
    multi_host(engine, [f"{HOST}:{pair.second.port}", f"{HOST}:{pair.first.port}"])
    try:
        with pair.second_is_read_only(), engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT CONCAT(USER(), @@port)").scalar_one().startswith("plain@")
            assert connection.exec_driver_sql("SELECT @@port").scalar_one() == pair.first.port
    finally:
        for admin in admins:
            with admin.begin() as connection:
                connection.exec_driver_sql("DROP USER plain@'%%'")
            admin.dispose()


def test_random_spreads_connections_and_first_does_not(pairs: Callable[[str], Pair]) -> None:
    pair = pairs("mysql")
    it = Client(pair, "mysql+pymysql")
    for prefer, expected in (("random", {0, 1}), ("first", {0})):
        seen: set[int] = set()
        with (
            Proxy(pair.first.port, lambda way, chunk, seen=seen: seen.add(0)) as one,
            Proxy(pair.first.port, lambda way, chunk, seen=seen: seen.add(1)) as other,
        ):
            it.over(one.port, other.port, prefer=prefer)
            for _ in range(40):  # all on one side: once in 2 ** 39
                it.ask("SELECT 1")
        assert seen == expected
    it.close()


# --- what becomes of a connection -----------------------------------------------------------------------------------------


def test_a_connection_has_the_time_outs_of_its_program_again(client: Callable[..., Client]) -> None:
    it = client()
    it.over(it.pair.first.port, connect_timeout=SHORT)
    assert it.ask("SELECT SLEEP(1.5)") == 0, "a statement may take longer than a greeting"
    impatient = client(read_timeout=1).over(it.pair.first.port, connect_timeout=timedelta(seconds=20))
    with pytest.raises(sa.exc.DBAPIError) as lost:
        impatient.ask("SELECT SLEEP(25)")
    dialect = find(it.sync.dialect, "idemtable", None)
    assert Fault.UNKNOWN in {dialect.fault(one) for one in (lost.value, lost.value.orig)}, (
        "and its end is known for one"
    )


def test_a_connection_is_handed_out_outside_a_transaction(client: Callable[..., Client]) -> None:
    it = client().over(client().pair.first.port)
    inside: list[bool] = []
    dialect = find(it.sync.dialect, "idemtable", None)

    @sa.event.listens_for(it.sync.pool, "connect", insert=True)
    def look(driver: Any, record: Any) -> None:
        raw = getattr(driver, "driver_connection", driver)
        status = getattr(raw, "server_status", None)
        inside.append(bool(status & 1) if status is not None else bool(getattr(raw, "in_transaction", False)))

    it.ask("SELECT 1")
    assert inside == [False]
    assert dialect.deleting  # the driver is one that the library knows


def test_a_server_that_was_passed_over_keeps_no_connection(client: Callable[..., Client]) -> None:
    it = client()
    pair = it.pair
    it.over(pair.second.port, pair.first.port)
    before = len(pair.say("SHOW PROCESSLIST"))
    with pair.second_is_read_only():
        for _ in range(5):
            it.ask("SELECT 1")
    deadline = time.monotonic() + 20
    while len(pair.say("SHOW PROCESSLIST")) > before:  # a server takes note of a farewell in its own time
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- nobody takes writes --------------------------------------------------------------------------------------------------


def test_where_nobody_takes_writes_no_server_can_be_had(client: Callable[..., Client]) -> None:
    it = client()
    pair = it.pair
    dead = free_port()
    with silent(pair, None) as (port, _), pair.second_is_read_only():
        for ports in ([dead, port, pair.second.port], [pair.second.port, dead, port], [port, pair.second.port, dead]):
            it.over(*ports, connect_timeout=SHORT)
            with pytest.raises((sa.exc.OperationalError, sa.exc.InterfaceError)) as caught:
                it.ask("SELECT 1")
            assert isinstance(caught.value.orig, it.sync.dialect.loaded_dbapi.Error)
            notes = " ".join(caught.value.orig.__notes__)
            assert all((f":{one}" in notes) is (one != ports[-1]) for one in ports), "of the others there are notes"
            verdict = Verdict(caught.value, find(it.sync.dialect, "idemtable", None))
            assert verdict.is_lost
            assert verdict.restarts
            assert not verdict.is_busy


def test_a_call_goes_on_until_one_takes_writes(pairs: Callable[[str], Pair]) -> None:
    pair = pairs("mysql")
    db = Database("mysql", sa.make_url(pair.second.url(DATABASE)), BACKENDS["mysql"][1])
    it = Client(pair, "mysql+pymysql").over(pair.second.port, free_port())
    tries: list[int] = []

    @sa.event.listens_for(it.sync, "handle_error")
    def one_is_back(context: Any) -> None:
        tries.append(context.original_exception.args[0])
        if len(tries) == 3:
            pair.say("SET GLOBAL super_read_only = OFF")
            pair.say("SET GLOBAL read_only = OFF")

    @IdemTable(it.engine).transactional(f"hosts.{next(_scopes)}", key="key", wait=WAIT)
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    try:
        with pair.second_is_read_only():
            assert not order.outcome("k").replayed
        assert len(tries) == 3
        assert db.effects() == ["k"]
    finally:
        it.close()
        db.sweep()
        db.close()


@pytest.mark.parametrize("backend", ["mysql", "mysql-async", "mysql-connector", "mysql-several"])
def test_a_call_whose_server_becomes_read_only_goes_on_at_the_other(pairs: Callable[[str], Pair], backend: str) -> None:
    pair = pairs("mysql")
    here, there = (
        Database(backend, sa.make_url(one.url(DATABASE)), BACKENDS[backend][1]) for one in (pair.second, pair.first)
    )
    runs: list[int] = []
    try:
        with here.other_engine() as engine:
            multi_host(engine, [f"{HOST}:{pair.second.port}", f"{HOST}:{pair.first.port}"])

            @here.table(engine).transactional(f"hosts.{next(_scopes)}", key="key", wait=WAIT)
            def order(session: Any, key: str) -> int:
                runs.append(session.connection().exec_driver_sql("SELECT @@port").scalar_one())
                if len(runs) == 1:
                    meanwhile(here, lambda: pair.say("SET GLOBAL super_read_only = ON"))
                return effect(session, key)

            outcome = order.outcome("k")
            assert order.outcome("k").replayed
        assert runs == [pair.second.port, pair.first.port]
        assert (outcome.replayed, outcome.attempts) == (False, 2)
        assert (here.effects(), there.effects()) == ([], ["k"])
    finally:
        pair.say("SET GLOBAL super_read_only = OFF")
        pair.say("SET GLOBAL read_only = OFF")
        for db in (here, there):
            db.sweep()
            db.close()


# --- what servers answer --------------------------------------------------------------------------------------------------


class Told:
    """A connection to a server that gives these answers, one for each question."""

    def __init__(self, *answers: Sequence[tuple[Any, ...]] | Exception) -> None:
        self._answers = iter(answers)

    def cursor(self) -> Told:
        return self

    def execute(self, question: str) -> None:
        self._answer = next(self._answers)
        if isinstance(self._answer, Exception):
            raise self._answer

    def fetchall(self) -> Any:
        return self._answer

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("read_only", "wsrep", "refused"),
    [
        ([(0, 0)], [], None),
        ([(0,)], [("wsrep_provider_name", ""), ("wsrep_ready", "OFF")], None),  # no cluster at all
        ([(0,)], [("wsrep_provider_name", "Galera"), ("wsrep_ready", "ON")], None),
        ([(0,)], [("wsrep_provider_name", "Galera"), ("wsrep_ready", "OFF")], "no part of its cluster"),
        ([(0,)], [(b"wsrep_provider_name", b"Galera"), (b"wsrep_ready", b"OFF")], "no part of its cluster"),
        ([("OFF",)], [], None),
        ([("ON",)], [], "read-only"),
        ([("NO_LOCK",)], [], "read-only"),
        ([(0, 1)], [], "offline"),
        (Exception(1193, "Unknown system variable"), Exception(1227, "Access denied"), None),
    ],
)
def test_each_answer_is_understood(read_only: Any, wsrep: Any, refused: str | None) -> None:
    reason = hosts._refusal(Told(read_only, wsrep))
    assert reason is None if refused is None else refused in str(reason)


def test_an_answer_that_tells_of_trouble_is_not_taken_for_a_yes() -> None:
    with pytest.raises(Exception, match="1047"):
        hosts._refusal(Told(Exception(1047, "WSREP has not yet prepared node")))


# --- what cannot be right -------------------------------------------------------------------------------------------------


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    """An engine that says so when it is asked for a connection."""
    engine = sa.create_engine("mysql+pymysql://nobody@nowhere.invalid/shop")
    yield engine
    assert engine.pool.checkedin() == 0
    engine.dispose()


def tried_by(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Where the engine wants to go, which it does not do."""
    tried: list[tuple[str, int]] = []

    def refuse(*args: Any, host: str, port: int, unix_socket: str = "", **parameters: Any) -> None:
        assert not unix_socket
        tried.append((host, port))
        raise engine.dialect.loaded_dbapi.OperationalError(2003, "nobody is there")

    monkeypatch.setattr(engine.dialect, "connect", refuse)
    with pytest.raises(sa.exc.OperationalError):
        engine.connect()
    return tried


def test_an_address_of_ipv6_stands_in_brackets(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    multi_host(engine, ("[2001:db8::1]:3306", "[::1]:3307", "db-1.example_2:65535"))
    assert tried_by(engine, monkeypatch) == [("2001:db8::1", 3306), ("::1", 3307), ("db-1.example_2", 65535)]


def test_a_socket_in_the_url_is_ignored_as_its_host_is(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = multi_host(sa.create_engine("mysql+pymysql://u@h/shop?unix_socket=/run/x.sock"), ["db1:3306"])
    assert tried_by(engine, monkeypatch) == [("db1", 3306)]


def test_the_last_word_holds(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    multi_host(engine, ["db1:3306", "db2:3306"])
    multi_host(engine.execution_options(isolation_level="SERIALIZABLE"), ["db3:3306"])
    assert tried_by(engine, monkeypatch) == [("db3", 3306)]


def test_what_a_listener_before_it_says_is_heard(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    sa.event.listen(engine, "do_connect", lambda dialect, record, args, parameters: parameters.update(password="new"))
    multi_host(engine, ["db1:3306"])

    def refuse(*args: Any, password: str, **parameters: Any) -> None:
        given.append(password)
        raise engine.dialect.loaded_dbapi.OperationalError(2003, "nobody is there")

    monkeypatch.setattr(engine.dialect, "connect", refuse)
    with pytest.raises(sa.exc.OperationalError):
        engine.connect()
    assert given == ["new"]


@pytest.mark.parametrize(
    ("addresses", "kind", "message"),
    [
        ("db1:3306", TypeError, "takes a list"),
        (None, TypeError, "takes a list"),
        ({"db1:3306"}, TypeError, "takes a list"),
        ([3306], TypeError, "takes strings"),
        ([], ValueError, "empty"),
        (["db1"], ValueError, "no host with its port"),
        (["db1:"], ValueError, "no host with its port"),
        ([":3306"], ValueError, "no host with its port"),
        (["db1:port"], ValueError, "no host with its port"),
        (["db1:0"], ValueError, "no host with its port"),
        (["db1:65536"], ValueError, "no host with its port"),
        (["db1:3306,db2:3306"], ValueError, "no host with its port"),
        (["db1:3306 "], ValueError, "no host with its port"),
        (["u:p@db1:3306"], ValueError, "without user"),
        (["mysql://db1:3306"], ValueError, "no host with its port"),
        (["::1:3306"], ValueError, "no host with its port"),
        (["[db1]:3306"], ValueError, "no IPv6 address"),
        (["db1:3306", "db1:3306"], ValueError, "named twice"),
    ],
)
def test_hosts_that_cannot_be_right_are_refused(
    engine: sa.Engine, addresses: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        multi_host(engine, addresses)
    assert not engine.dialect._has_events


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"prefer": "last"}, ValueError, 'takes "first" or "random"'),
        ({"prefer": None}, ValueError, 'takes "first" or "random"'),
        ({"connect_timeout": 2}, TypeError, "takes a timedelta"),
        ({"connect_timeout": timedelta()}, ValueError, "longer than zero"),
        ({"connect_timeout": timedelta(seconds=-1)}, ValueError, "connect_timeout"),
        ({"connect_timeout": timedelta(minutes=2)}, ValueError, "at most"),
    ],
)
def test_options_out_of_their_range_are_refused(
    engine: sa.Engine, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        multi_host(engine, ["db1:3306"], **options)
    assert not engine.dialect._has_events


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+psycopg://u@h/shop", "target_session_attrs=read-write in the URL"),
        ("postgresql+psycopg2://u@h/shop", "target_session_attrs=read-write in the URL"),
        ("sqlite://", "has no hosts"),
    ],
)
def test_another_database_is_refused_with_what_it_has_instead(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multi_host(sa.create_engine(url), ["db1:3306"])


def test_an_engine_that_connects_by_itself_is_refused(pairs: Callable[[str], Pair]) -> None:
    made = sa.create_engine("mysql+pymysql://u@h/shop", creator=lambda: None)
    with pytest.raises(ValueError, match="creator="):
        multi_host(made, ["db1:3306"])

    async def creator() -> None: ...

    with pytest.raises(ValueError, match="creator="):
        multi_host(create_async_engine("mysql+asyncmy://u@h/shop", async_creator=creator), ["db1:3306"])


@pytest.mark.parametrize("wrong", [None, "mysql+pymysql://u@h/shop", IdemTable])
def test_what_is_no_engine_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="takes an Engine or an AsyncEngine"):
        idemtable.multi_host(wrong, ["db1:3306"])
