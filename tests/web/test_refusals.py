"""What cannot be: refused when the program starts, or answered with a problem that names its cure to the right one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from fastapi import FastAPI
from flask import Flask
from sqlalchemy.orm import sessionmaker

import idemtable
from idemtable import AsyncIdemTable, IdemTable
from idemtable.tokens import RedisTokenStore
from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware, WSGIIdempotencyMiddleware
from idemtable.web.fastapi import document, token_router
from idemtable.web.flask import init_app, token_blueprint
from idemtable.web.problems import DOCS, PROBLEMS
from tests.docs.pages import DOCS as PAGES
from tests.support.database import effect
from tests.support.web import Site, Visit
from tests.web.conftest import Build

_TTL = timedelta(minutes=5)


def order(visit: Visit) -> bytes:
    return str(effect(visit.session, "order")).encode()


async def nothing(scope: Any, receive: Any, send: Any) -> None: ...


@pytest.fixture
def idem() -> Iterator[IdemTable]:
    engine = sa.create_engine("sqlite://")
    yield IdemTable(engine)
    engine.dispose()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"tenant": None}, TypeError, "tenant= takes a callable"),
        ({"tenant": "me"}, TypeError, "or SINGLE_TENANT"),
        ({"methods": "POST"}, TypeError, "methods= takes a collection"),
        ({"methods": None}, TypeError, "methods= takes a collection"),
        ({"methods": [b"POST"]}, TypeError, "methods= takes a collection"),
        ({"methods": ()}, ValueError, "methods= takes one or more names"),
        ({"methods": ["P OST"]}, ValueError, "methods= takes one or more names"),
        ({"header": None}, TypeError, "header= takes the name of a header field"),
        ({"header": b"Idempotency-Key"}, TypeError, "header= takes the name of a header field"),
        ({"header": ""}, ValueError, "header= takes the name .* no blank and no colon"),
        ({"header": "Idempotency-Key:"}, ValueError, "header= takes the name .* no blank and no colon"),
        ({"header": "Idempotency-Key\n"}, ValueError, "header= takes the name .* no blank and no colon"),
        ({"header": "Schl\u00fcssel"}, ValueError, "header= takes the name .* no blank and no colon"),
        ({"replay_header": True}, TypeError, "replay_header= takes the name of a header field"),
        ({"replay_header": "x\r\ny"}, ValueError, "replay_header= takes the name of a header field"),
        ({"methods": 5}, TypeError, "methods= takes a collection"),
        ({"store": 5}, TypeError, "store= takes a callable that is given the response, not 5"),
        ({"headers": 5}, TypeError, r"headers= takes a collection of names such as \('X-Total',\), not 5"),
        ({"headers": [5]}, TypeError, "headers= takes a collection of names"),
        ({"headers": ["X-Total, X-Page"]}, ValueError, "headers= takes the name of a header field"),
        ({"syntax": "loose"}, ValueError, "syntax= is 'lenient' or 'strict'"),
        ({"fingerprint": "xml"}, ValueError, "fingerprint= is 'raw', 'json' or a callable"),
        ({"scope": 7}, TypeError, "scope= takes a name"),
        ({"required": "no"}, TypeError, "required= takes True or False"),
        ({"scope": ""}, ValueError, "the scope must not be empty"),
        ({"tokens": "t"}, TypeError, "tokens= takes what idem.tokens"),
        ({"headers": ["Set-Cookie"]}, ValueError, "names set-cookie, which belongs to one caller"),
        ({"headers": ["Connection"]}, ValueError, "names connection, which belongs to one message"),
        ({"headers": ["ETag", "Content-Length"]}, ValueError, "names content-length, which belongs to one message"),
        ({"docs_url": "docs"}, ValueError, "docs_url= takes an absolute URL"),
        ({"docs_url": None}, ValueError, "docs_url= takes an absolute URL"),
        ({"docs_url": "https://shop.example/a b"}, ValueError, "docs_url= takes an absolute URL"),
        ({"docs_url": "https://shop.example/\r\nX: y"}, ValueError, "docs_url= takes an absolute URL"),
        ({"docs_url": "https://shop.example/>"}, ValueError, "docs_url= takes an absolute URL"),
        ({"docs_url": "https://\u00e9.example/"}, ValueError, "docs_url= takes an absolute URL in ASCII"),
        ({"docs_url": "https://shop.example/#help"}, ValueError, "without a fragment"),
        ({"max_body": 0}, ValueError, "max_body must be at least 1"),
        ({"max_response": "big"}, TypeError, "max_response= takes an int"),
        ({"max_waiters": 0}, ValueError, "max_waiters must be at least 1"),
        ({"quota": -1}, ValueError, "quota must be at least 1"),
        ({"ttl": timedelta(0)}, ValueError, "ttl"),
        ({"wait": timedelta(days=1)}, ValueError, "wait"),
        ({"colour": "red"}, TypeError, "colour"),
    ],
)
@pytest.mark.parametrize("middleware", [IdempotencyMiddleware, WSGIIdempotencyMiddleware])
def test_an_argument_that_cannot_be_is_refused_when_the_program_starts(
    idem: IdemTable, middleware: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        middleware(nothing, idem, **{"tenant": SINGLE_TENANT, **options})


def test_the_tenant_has_no_default(idem: IdemTable) -> None:
    with pytest.raises(TypeError, match="tenant"):
        IdempotencyMiddleware(nothing, idem)  # type: ignore[call-arg]


def test_methods_that_can_be_gone_through_only_once_are_protected(idem: IdemTable) -> None:
    middleware = IdempotencyMiddleware(nothing, idem, tenant=SINGLE_TENANT, methods=(name for name in ["post"]))  # type: ignore[arg-type]
    assert middleware._rules.protects("POST")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda given: IdempotencyMiddleware(nothing, given, tenant=SINGLE_TENANT),
            "takes an IdemTable or AsyncIdemTable",
        ),
        (
            lambda given: WSGIIdempotencyMiddleware(nothing, given, tenant=SINGLE_TENANT),
            "WSGI is sync: use IdemTable, not",
        ),
        (lambda given: init_app(Flask("shop"), given, tenant=SINGLE_TENANT), "WSGI is sync: use IdemTable, not"),
        (lambda given: token_blueprint(given), r"token_blueprint takes what IdemTable.tokens\(…\) returns, not"),
        (lambda given: token_router(given), r"token_router takes what idem.tokens\(…\) returns, not"),
    ],
    ids=["asgi", "wsgi", "flask", "blueprint", "router"],
)
def test_an_engine_is_refused_by_the_name_of_what_is_wanted(build: Any, message: str) -> None:
    engine = sa.create_engine("sqlite://")
    with pytest.raises(TypeError, match=message):
        build(engine)
    engine.dispose()


def test_openapi_is_told_of_methods_and_not_of_letters() -> None:
    with pytest.raises(TypeError, match="methods= takes a collection"):
        document(FastAPI(), methods="POST")


def test_flask_issues_no_async_tokens() -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    tokens = AsyncIdemTable(create_async_engine("sqlite+aiosqlite://")).tokens("checkout", ttl=timedelta(minutes=5))
    with pytest.raises(TypeError, match="not <AsyncTokens 'checkout'>"):
        token_blueprint(tokens)  # type: ignore[arg-type]


def test_wsgi_takes_no_async_table() -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    table = AsyncIdemTable(create_async_engine("sqlite+aiosqlite://"))
    with pytest.raises(TypeError, match="WSGI is sync: use IdemTable"):
        WSGIIdempotencyMiddleware(nothing, table, tenant=SINGLE_TENANT)  # type: ignore[arg-type]


def test_wsgi_takes_no_header_that_it_cannot_find(idem: IdemTable) -> None:
    IdempotencyMiddleware(nothing, idem, tenant=SINGLE_TENANT, header="X_Key")
    with pytest.raises(ValueError, match=r"header= has an underscore, .* name it with a hyphen"):
        WSGIIdempotencyMiddleware(nothing, idem, tenant=SINGLE_TENANT, header="X_Key")


@pytest.mark.parametrize("middleware", [IdempotencyMiddleware, WSGIIdempotencyMiddleware])
def test_tokens_of_another_table_or_database_are_refused_when_the_program_starts(
    idem: IdemTable, middleware: Any
) -> None:
    engine = idem._settings.engine
    for other in (IdemTable(sa.create_engine("sqlite://")), IdemTable(engine, table="others")):
        with pytest.raises(ValueError, match=r"tokens= live in another table or database.* own table gives"):
            middleware(nothing, idem, tenant=SINGLE_TENANT, tokens=other.tokens("checkout", ttl=_TTL))
    for same in (idem, IdemTable(engine), IdemTable(sessionmaker(engine))):
        middleware(nothing, idem, tenant=SINGLE_TENANT, tokens=same.tokens("checkout", ttl=_TTL))


@pytest.mark.parametrize("middleware", [IdempotencyMiddleware, WSGIIdempotencyMiddleware])
def test_tokens_of_the_other_colour_are_refused_when_the_program_starts(idem: IdemTable, middleware: Any) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    table = AsyncIdemTable(create_async_engine("sqlite+aiosqlite://"))
    with pytest.raises(TypeError, match="tokens= and the table must both be sync or both be async"):
        middleware(nothing, idem, tenant=SINGLE_TENANT, tokens=table.tokens("checkout", ttl=_TTL))


@pytest.mark.parametrize("middleware", [IdempotencyMiddleware, WSGIIdempotencyMiddleware])
def test_tokens_in_a_store_may_be_those_of_another_table(idem: IdemTable, middleware: Any) -> None:
    other = IdemTable(sa.create_engine("sqlite://"))
    stored = other.tokens("checkout", ttl=_TTL, store=RedisTokenStore(redis.Redis()))
    middleware(nothing, idem, tenant=SINGLE_TENANT, tokens=stored)


def test_tokens_may_be_those_of_another_engine_of_the_same_database(tmp_path: Path) -> None:
    def table(name: str, **options: Any) -> IdemTable:
        return IdemTable(sa.create_engine(f"sqlite:///{tmp_path / name}"), **options)

    tokens = table("a.db").tokens("checkout", ttl=_TTL)
    IdempotencyMiddleware(nothing, table("a.db"), tenant=SINGLE_TENANT, tokens=tokens)
    for other in (table("b.db"), table("a.db", table="others")):
        with pytest.raises(ValueError, match="tokens= live in another table or database"):
            IdempotencyMiddleware(nothing, other, tenant=SINGLE_TENANT, tokens=tokens)


def test_tokens_of_another_table_are_refused_at_their_first_use_where_its_bind_comes_late(site: Build) -> None:
    db = site(order).db
    if db.is_async:
        from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

        maker, engine = async_sessionmaker(), create_async_engine("sqlite+aiosqlite://")
        tokens = AsyncIdemTable(maker).tokens("checkout", ttl=_TTL)
    else:
        maker, engine = sessionmaker(), sa.create_engine("sqlite://")
        tokens = IdemTable(maker).tokens("checkout", ttl=_TTL)
    shop = site(order, tokens=tokens)
    maker.configure(bind=engine)
    with pytest.raises(ValueError, match="tokens= live in another table or database"):
        shop.post(headers=[("X-Idempotency-Token", "x" * 43)])
    maker.configure(bind=db.engine)
    assert shop.post(headers=[("X-Idempotency-Token", "x" * 43)]).problem == "token-invalid"
    assert db.effects() == []


def test_each_problem_has_a_type_of_its_own_and_a_heading_on_the_page() -> None:
    slugs = [problem.slug for problem in PROBLEMS]
    assert len(set(slugs)) == len(slugs)
    page = (PAGES / "how-to" / "http.md").read_text(encoding="utf-8")
    for problem in PROBLEMS:
        assert f"\n### {problem.slug}\n\n{problem.status}" in page
    assert DOCS.endswith("docs/how-to/http.md")


def test_the_type_of_a_problem_is_on_the_page_that_the_program_names(site: Build) -> None:
    answer = site(order, required=True, docs_url="https://shop.example/help").post()
    assert b'"type": "https://shop.example/help#key-missing"' in answer.body
    assert answer["Link"] == '<https://shop.example/help#key-missing>; rel="describedby"'


def test_without_a_table_the_handler_does_not_run(site: Build) -> None:
    ran: list[int] = []

    def handler(visit: Visit) -> bytes:
        ran.append(1)
        return b""

    missing = site(handler, idem=site(handler).db.table(table="not_there"))
    answer = missing.post(key="k-1")
    assert (answer.status, answer.problem, answer["Retry-After"]) == (503, "not-ready", "1")
    assert ran == []


def test_a_row_that_cannot_be_read_is_never_run_again(site: Build) -> None:
    shop = site(order)
    assert shop.post(key="k-1").status == 200
    _spoil(shop, result=b"\xff")
    for _ in range(2):
        answer = shop.post(key="k-1")
        assert (answer.status, answer.problem) == (500, "result-unreadable")
    _spoil(shop, codec="another")
    assert shop.post(key="k-1").problem == "result-unreadable"
    assert shop.db.effects() == ["order"]


def _spoil(site: Site, **values: Any) -> None:
    rows = idemtable.metadata.tables["idemtable"]
    with site.db.admin.begin() as connection:
        connection.execute(rows.update().values(**values))


def test_a_guard_that_refuses_is_a_conflict(site: Build) -> None:
    def handler(visit: Visit) -> bytes:
        raise idemtable.StaleVersionError("Account 7 has version 3, not 2", expected=2, found=3)

    answer = site(handler).post(key="k-1")
    assert (answer.status, answer.problem) == (409, "conflict")
    assert b"Account" not in answer.body


def test_an_error_of_the_handlers_that_looks_like_a_lost_database_is_the_applications(site: Build) -> None:
    def handler(visit: Visit) -> bytes:
        raise sa.exc.OperationalError("SELECT", {}, Exception("the archive is away"))

    with pytest.raises(sa.exc.OperationalError, match="the archive is away"):
        site(handler).post(key="k-1")
