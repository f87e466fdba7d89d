"""What cannot be: refused when the program starts, or answered with a problem that names its cure to the right one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

import idemtable
from idemtable import AsyncIdemTable, IdemTable
from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware, WSGIIdempotencyMiddleware
from idemtable.web.problems import DOCS, PROBLEMS
from tests.docs.pages import DOCS as PAGES
from tests.support.database import effect
from tests.support.web import Site, Visit
from tests.web.conftest import Build


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
        ({"syntax": "loose"}, ValueError, "syntax= is 'lenient' or 'strict'"),
        ({"fingerprint": "xml"}, ValueError, "fingerprint= is 'raw', 'json' or a callable"),
        ({"scope": 7}, TypeError, "scope= takes a name"),
        ({"required": "no"}, TypeError, "required= takes True or False"),
        ({"scope": ""}, ValueError, "the scope must not be empty"),
        ({"tokens": "t"}, TypeError, "tokens= takes what idem.tokens"),
        ({"headers": ["Set-Cookie"]}, ValueError, "names set-cookie, which belongs to one caller"),
        ({"docs_url": "docs"}, ValueError, "docs_url= takes an absolute URL"),
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


def test_wsgi_takes_no_async_table() -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    table = AsyncIdemTable(create_async_engine("sqlite+aiosqlite://"))
    with pytest.raises(TypeError, match="WSGI is sync: use IdemTable"):
        WSGIIdempotencyMiddleware(nothing, table, tenant=SINGLE_TENANT)  # type: ignore[arg-type]


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
