"""The edges: cancelled requests, sessions that somebody keeps, odd responses, forms and paths."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Request
from sqlalchemy.exc import InvalidRequestError

from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware, WSGIIdempotencyMiddleware, form, keep
from tests.support import PATIENCE
from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database, effect
from tests.support.tokens import desk
from tests.support.web import AsgiSite, Visit, WsgiSite
from tests.web.conftest import Build

KEY = [("Idempotency-Key", "k-1")]


@pytest.fixture(params=[name for name in ("sqlite", "postgresql18", "mariadb") if name in BACKENDS])
def plain_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture
def asgi(plain_db: Database) -> Iterator[AsgiSite]:
    site = AsgiSite(plain_db, lambda visit: b"")
    yield site
    site.close()


def order(visit: Visit) -> bytes:
    return str(effect(visit.session, "order")).encode()


def test_a_cancelled_request_waits_for_its_handlers_thread_before_it_rolls_back(asgi: AsgiSite) -> None:
    app, reached, goes_on, seen = FastAPI(), threading.Event(), threading.Event(), []
    app.add_middleware(IdempotencyMiddleware, asgi.idem, tenant=SINGLE_TENANT)

    @app.post("/orders")
    def create(request: Request) -> None:
        effect(request.state.session, "one")
        reached.set()
        assert goes_on.wait(PATIENCE)
        effect(request.state.session, "two")
        seen.append(request.state.session.in_transaction())

    async def cancelled() -> None:
        request = asyncio.ensure_future(asgi.asend("POST", "/orders", KEY, app=app))
        await asyncio.to_thread(reached.wait, PATIENCE)
        request.cancel()
        done, _ = await asyncio.wait({request}, timeout=0.1)
        assert not done, "the request was over before its handler"
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await request

    asgi.loop.run(cancelled())
    assert seen == [True]
    assert (asgi.db.effects(), asgi.db.rows()) == ([], [])


def test_an_application_that_answers_although_it_was_cancelled_has_done_nothing(asgi: AsgiSite) -> None:
    reached = asyncio.Event()

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        effect(scope["state"]["session"], "order")
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"done"})

    app = IdempotencyMiddleware(stubborn, asgi.idem, tenant=SINGLE_TENANT)

    async def cancelled() -> None:
        request = asyncio.ensure_future(asgi.asend("POST", "/orders", KEY, app=app))
        await asyncio.wait_for(reached.wait(), PATIENCE)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asgi.loop.run(cancelled())
    assert (asgi.db.effects(), asgi.db.rows()) == ([], [])


def test_whoever_keeps_the_session_finds_it_closed(site: Build) -> None:
    kept: list[Any] = []

    def handler(visit: Visit) -> bytes:
        kept.append(visit.session)
        return order(visit)

    shop = site(handler)
    assert shop.post(key="k-1").status == 200
    with pytest.raises(InvalidRequestError, match="closed"):
        kept[0].execute(sa.text("SELECT 1"))


@pytest.mark.parametrize("status", [HTTPStatus.CREATED, HTTPStatus.NO_CONTENT])
def test_a_status_may_be_a_member_of_pythons_enum(asgi: AsgiSite, status: HTTPStatus) -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    app = IdempotencyMiddleware(handler, asgi.idem, tenant=SINGLE_TENANT)
    assert [asgi.post(key="k-1", app=app).status for _ in range(2)] == [status, status]


@pytest.mark.parametrize("answer", ["", "tea"])
def test_flasks_response_without_content_is_no_stream(plain_db: Database, answer: str) -> None:
    import flask

    import idemtable.web.flask

    app = flask.Flask(__name__)
    idemtable.web.flask.init_app(app, plain_db.idem, tenant=SINGLE_TENANT)

    @app.post("/orders")
    def create() -> Any:
        effect(flask.g.session, "order")
        return (answer, 201) if answer else ("", 204)

    client = app.test_client()
    answers = [client.post("/orders", headers=dict(KEY)) for _ in range(2)]
    assert [one.status_code for one in answers] == [201 if answer else 204] * 2
    assert [one.text for one in answers] == [answer, answer]
    assert plain_db.effects() == ["order"]


def test_a_response_that_begins_anew_after_an_error_is_all_there_is(plain_db: Database) -> None:
    def application(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Length", "11")])
        write(b"hello ")
        start_response("402 Payment Required", [("Content-Length", "8")], (None, None, None))
        return keep([b"declined"])

    shop = WsgiSite(plain_db, order)
    app = WSGIIdempotencyMiddleware(application, shop.idem, tenant=SINGLE_TENANT)
    answers = [shop.send("POST", "/orders", KEY, app=app) for _ in range(2)]
    assert [(one.status, one.body) for one in answers] == [(402, b"declined")] * 2


@pytest.mark.parametrize("name", ["required", "scope", "fingerprint", "store"])
def test_an_async_callable_that_nobody_awaits_is_refused(plain_db: Database, name: str) -> None:
    async def asked(_: Any) -> bool:
        return False

    with pytest.raises(TypeError, match=f"{name}= is async"):
        AsgiSite(plain_db, order, **{name: asked})


def test_a_middleware_round_nothing_is_refused_where_it_is_made(plain_db: Database) -> None:
    async def asked(_: Any) -> str:
        return "u-1"

    for middleware, kind in ((IdempotencyMiddleware, "ASGI"), (WSGIIdempotencyMiddleware, "WSGI")):
        with pytest.raises(TypeError, match=f"takes an? {kind} application, not None"):
            middleware(None, plain_db.idem, tenant=SINGLE_TENANT)
    with pytest.raises(TypeError, match="tenant= is async"):
        WSGIIdempotencyMiddleware(lambda environ, start_response: [], plain_db.idem, tenant=asked)


def test_a_tenant_of_another_type_is_the_programs_mistake(site: Build) -> None:
    shop = site(order, tenant=lambda request: 7)
    with pytest.raises(TypeError, match="tenant= has returned a int: return a str"):
        shop.post(key="k-1")
    assert shop.db.effects() == []


_PART = "--{0}\r\nContent-Disposition: form-data; name={1}\r\n\r\n{{}}\r\n--{0}--\r\n"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("application/x-www-form-urlencoded", "n=\u00e9&token={}"),
        ("application/x-www-form-urlencoded", "x=1&" * 1100 + "token={}"),
        ("multipart/form-data; boundary=a=b", _PART.format("a=b", '"token"')),
        ("multipart/form-data; boundary=a:b", _PART.format("a:b", "token")),
        ('multipart/form-data; Boundary = "a b";', _PART.format("a b", '"token"; x="a;b\\""')),
        ("multipart/form-data; boundary=b", _PART.format("b", '"token"').replace("; name=", ";\tNAME = ")),
        ("multipart/form-data; boundary=b", _PART.format("b", "token").replace("Content-D", "A: b\r\ncontent-d")),
        ("multipart/form-data; boundary=b", "\r\n" + _PART.format("b", "token") + "and more"),
        ("application/x-www-form-urlencoded", "%74oke%6E={}"),
    ],
)
def test_a_token_in_an_odd_form_is_found(plain_db: Database, kind: str, text: str) -> None:
    tokens = desk(plain_db)
    shop = WsgiSite(plain_db, lambda visit: str(effect(visit.session, "order")).encode(), tokens=tokens)
    body, sent = text.format(tokens.issue()).encode(), [("Content-Type", kind)]
    assert [shop.post(body=body, headers=sent).replayed for _ in range(2)] == [False, True]


def _form(*parts: str, boundary: str = "b") -> bytes:
    return ("".join(f"--{boundary}\r\n{part}\r\n" for part in parts) + f"--{boundary}--\r\n").encode()


def _field(name: str, value: str = "tea") -> str:
    return f"Content-Disposition: form-data; name={name}\r\n\r\n{value}"


def _sent(boundary: str, *fields: str, kind: str = "multipart/form-data; boundary={}") -> dict[str, Any]:
    return {"body": _form(*fields, boundary=boundary), "headers": [("Content-Type", kind.format(boundary))]}


_MOST = form.MOST_FIELDS


@pytest.mark.parametrize(
    "body",
    [
        _form("Content-Disposition form-data; name=token\r\n\r\ntea"),
        _form("Content-Disposition: form-data; name*=utf-8''tok%65n\r\n\r\ntea"),
        _form("Content-Disposition: form-data; name=item; name=token\r\n\r\ntea"),
        _form("Content-Disposition: form-data;\r\n name=token\r\n\r\ntea"),
        _form(_field("item") + "\n--b\n" + _field("token").replace("\r", "")),
        _form(_field("token"))[:-6],
        b"--" + _form(_field("token")),
        _form(_field("token"), boundary="c"),
        _form(f"X: {'x' * 8192}\r\n{_field('token')}"),
        _form(*[_field("item")] * (_MOST + 1)),
        b'name="token"' + b"\n--b\n" * 50_000 + b"--b--",
    ],
    ids=["colon", "charset", "twice", "folded", "line", "end", "mid-line", "boundary", "head", "fields", "many"],
)
def test_a_form_in_which_nobody_can_find_the_token_is_refused_and_never_run(plain_db: Database, body: bytes) -> None:
    shop = WsgiSite(plain_db, order, tokens=desk(plain_db))
    answer = shop.post(body=body, headers=[("Content-Type", "multipart/form-data; boundary=b")])
    assert (answer.status, answer.problem) == (400, "form-unreadable")
    assert plain_db.effects() == []


def test_a_form_of_more_fields_than_are_looked_through_is_refused(site: Build) -> None:
    tokens = desk(site(order).db)
    shop = site(order, tokens=getattr(tokens, "inner", tokens))
    for count, refusal in {_MOST: (403, "token-invalid"), _MOST + 1: (400, "form-unreadable")}.items():
        forms = {
            "application/x-www-form-urlencoded": b"item=tea&" * (count - 1) + b"token=x",
            "multipart/form-data; boundary=b": _form(*[_field("item")] * (count - 1), _field("token")),
        }
        for kind, body in forms.items():
            answer = shop.post(body=body, headers=[("Content-Type", kind)])
            assert (answer.status, answer.problem) == refusal
    assert shop.db.effects() == []


def test_a_form_without_a_token_runs_and_one_with_two_or_with_a_file_for_one_does_not(plain_db: Database) -> None:
    shop = WsgiSite(plain_db, order, tokens=(tokens := desk(plain_db)))
    sent = [("Content-Type", "multipart/form-data; boundary=b")]
    token = f'Content-Disposition: form-data; name="token"{{}}\r\n\r\n{tokens.issue()}'
    file = 'Content-Disposition: form-data; name="tokens"; filename="a\\"b; name=c.txt"\r\n\r\ntea'
    assert shop.post(body=_form(file, _field("item")), headers=sent).status == 200
    for bad in (_form(token.format(""), token.format("")), _form(token.format("; filename=a"))):
        assert shop.post(body=bad, headers=sent).problem == "token-invalid"
    assert shop.post(body=_form(file, token.format("")), headers=sent).status == 200
    assert plain_db.effects() == ["order"] * 2


def test_a_double_click_on_a_multipart_form_is_a_replay(site: Build) -> None:
    tokens = desk(site(order).db)
    shop = site(order, tokens=getattr(tokens, "inner", tokens))
    token = _field("token", tokens.issue())
    first, second, other = (
        shop.post(**_sent(boundary, token, _field("item", item)))
        for boundary, item in (("----Web1", "tea"), ("----Web2", "tea"), ("----Web3", "coffee"))
    )
    assert (first.status, second.replayed, second.body) == (200, True, first.body)
    assert (other.status, other.problem) == (403, "token-invalid")
    assert len(shop.db.effects()) == 1


def test_a_multipart_form_with_a_key_is_one_request_whatever_its_boundary(site: Build) -> None:
    shop = site(order)
    parts = [_field("item"), _field("note", "with\r\n--c\r\nmilk")]
    assert shop.post(key="k-1", **_sent("b", *parts)).status == 200
    assert shop.post(key="k-1", **_sent("bb", *parts)).replayed
    assert len(shop.db.effects()) == 1


@pytest.mark.parametrize(
    "other",
    [
        _sent("b", _field("item", "coffee")),
        _sent("b", _field("goods", "tea")),
        _sent("b", _field("item"), _field("item")),
        _sent("b", _field("item", "tea\r\n")),
        _sent("b", _field("item", "tea\r\n--b")),
        _sent("c", _field("item", f"tea\r\n--b\r\n{_field('item')}")),
        _sent("b", _field("item"), kind="multipart/mixed; boundary=b"),
        _sent("b", _field("item"), kind="multipart/form-data; boundary=b; a=b"),
        _sent("c", _field("item"), kind="multipart/form-data; boundary=b"),
        {"body": _sent("b", _field("item"))["body"]},
        {**_sent("b"), "body": b""},
    ],
)
def test_another_multipart_form_is_another_request(site: Build, other: dict[str, Any]) -> None:
    shop = site(order)
    assert shop.post(key="k-1", **_sent("b", _field("item"))).status == 200
    assert shop.post(key="k-1", **other).problem == "key-reused"
    assert len(shop.db.effects()) == 1


def test_a_body_of_parts_that_cannot_be_told_apart_is_compared_by_its_bytes(site: Build) -> None:
    shop = site(order)
    first, other = _sent("b", _field("item", "tea\n--b\n")), _sent("c", _field("item", "tea\n--b\n"))
    assert shop.post(key="k-1", **first).status == 200
    assert shop.post(key="k-1", **first).replayed
    assert shop.post(key="k-1", **other).problem == "key-reused"
    assert len(shop.db.effects()) == 1


def test_paths_that_are_no_utf8_stay_apart(plain_db: Database) -> None:
    shop = WsgiSite(plain_db, order)
    assert [shop.post(path, key="k-1").replayed for path in ("/a/\xfe", "/a/\xff", "/a/\xfe")] == [False, False, True]


def test_paths_that_a_server_could_not_decode_stay_apart(asgi: AsgiSite) -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    protected = IdempotencyMiddleware(handler, asgi.idem, tenant=SINGLE_TENANT)

    def raw(path: bytes) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await protected({**scope, "path": "/a/\ufffd", "raw_path": path}, receive, send)

        return app

    sent = [asgi.post(key="k-1", app=raw(path)).replayed for path in (b"/a/%FE", b"/a/%FF", b"/a/%FE")]
    assert sent == [False, False, True]


@pytest.mark.parametrize(
    ("path", "raw", "found"),
    [
        ("/pay/", b"/a/pay", "/a/pay"),  # Litestar's mounts
        ("/p x/y/", b"/a/p%20x%2Fy?q=1", "/a/p x/y"),
        ("/", b"/a", "/a"),
        ("/a/pay", b"/a/pay", "/a/pay"),  # Starlette's
        ("/api/a/pay", b"/a/pay", "/api/a/pay"),  # behind a proxy that takes off what the server puts back
        ("/x/z z", b"/x/z%20z/", "/x/z z"),
        ("/pay", b"/repay", "/pay"),
        ("/pay", b"", "/pay"),
        ("/pay", None, "/pay"),
    ],
)
def test_a_path_is_whole_also_where_a_framework_has_taken_off_its_mount(
    asgi: AsgiSite, path: str, raw: bytes | None, found: str
) -> None:
    seen: list[str] = []
    app = IdempotencyMiddleware(asgi.app.app, asgi.idem, tenant=lambda request: seen.append(request.path) or "me")
    assert asgi.post(key="k-1", app=app, around={"path": path, "raw_path": raw}).status == 200
    assert seen == [found]


def test_two_mounts_of_litestars_are_two_applications(asgi: AsgiSite) -> None:
    litestar = pytest.importorskip("litestar", reason="comes with what the recipes need")
    from litestar.testing import TestClient

    async def pay(scope: Any, receive: Any, send: Any) -> None:
        effect(scope["state"]["session"], "order")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"paid"})

    protected = IdempotencyMiddleware(pay, asgi.idem, tenant=SINGLE_TENANT)

    def mounted(path: str) -> Any:
        @litestar.asgi(path, is_mount=True, copy_scope=True)
        async def mount(scope: Any, receive: Any, send: Any) -> None:
            await protected(scope, receive, send)

        return mount

    with TestClient(litestar.Litestar([mounted("/a"), mounted("/b")])) as client:
        answers = [client.post(path, headers=dict(KEY)) for path in ("/a/pay", "/b/pay", "/a/pay")]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert ["Idempotent-Replayed" in answer.headers for answer in answers] == [False, False, True]
    assert asgi.db.effects() == ["order"] * 2


_AGAIN = {
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$",
    "mariadb": "BEGIN NOT ATOMIC SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'again'; END",
}


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("interface", [AsgiSite, WsgiSite])
@pytest.mark.parametrize("name", [name for name in ("postgresql18", "mariadb") if name in BACKENDS])
def test_a_deadlock_that_a_framework_has_answered_runs_the_handler_again(
    name: str, interface: Any, always: bool
) -> None:
    db, runs = db_of(name), []

    def handler(visit: Visit) -> Any:
        runs.append(effect(visit.session, "order"))
        if always or len(runs) == 1:
            try:
                visit.session.connection().exec_driver_sql(_AGAIN[db.kind])
            except sa.exc.DBAPIError:
                return 500, [], b"an error page"
        return b"done"

    shop = interface(db, handler, idem=db.table(attempts=3))
    try:
        answer = shop.post(key="k-1")
    finally:
        shop.close()
    if always:
        assert (answer.status, answer.body, len(runs), db.effects()) == (500, b"an error page", 3, [])
    else:
        assert (answer.status, answer.body, len(runs), db.effects()) == (200, b"done", 2, ["order"])


def test_what_the_application_writes_into_its_scope_is_seen_outside(asgi: AsgiSite) -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = "/orders"
        scope["state"]["mark"] = 7
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    protected, seen = IdempotencyMiddleware(handler, asgi.idem, tenant=SINGLE_TENANT), []

    async def outside(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {}
        await protected(scope, receive, send)
        seen.append((scope["route"], scope["state"]))

    asgi.post(key="k-1", app=outside)
    assert seen == [("/orders", {"mark": 7})]


def test_a_response_that_begins_twice_is_refused_before_its_commit(asgi: AsgiSite) -> None:
    async def handler(scope: Any, receive: Any, send: Any) -> None:
        effect(scope["state"]["session"], "order")
        for _ in range(2):
            await send({"type": "http.response.start", "status": 200, "headers": []})

    with pytest.raises(RuntimeError, match="begun its response twice"):
        asgi.post(key="k-1", app=IdempotencyMiddleware(handler, asgi.idem, tenant=SINGLE_TENANT))
    assert asgi.db.effects() == []
