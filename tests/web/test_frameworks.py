"""The helpers: FastAPI and Flask, as an application would use them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.testclient import TestClient
from flask import Flask, g, send_file
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from starlette.middleware.sessions import SessionMiddleware
from werkzeug.test import EnvironBuilder, run_wsgi_app

import idemtable.web.flask
from idemtable import IdemTable
from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware
from idemtable.web.fastapi import document, session, token_router
from idemtable.web.field import PATTERNS
from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database, effect

KEY = {"Idempotency-Key": "k-1"}


class Order(BaseModel):
    item: str


@pytest.fixture(
    params=[name for name in ("sqlite", "sqlite-async", "postgresql18", "mariadb-async") if name in BACKENDS]
)
def any_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture(params=[name for name in ("sqlite", "postgresql18", "mysql") if name in BACKENDS])
def plain_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


def fastapi_app(db: Database, **options: Any) -> FastAPI:
    app = FastAPI()
    idem = db.idem
    if db.is_async:
        # Without a pool: connections belong to the loop that opened them, and the client brings one of its own.
        idem = db.table(db.make_engine(poolclass=sa.NullPool)).inner
    app.add_middleware(IdempotencyMiddleware, idem, **{"tenant": SINGLE_TENANT, **options})
    if db.is_async:

        @app.post("/orders", status_code=201)
        async def create_async(new: Order, work: Annotated[Any, Depends(session)]) -> dict[str, int]:
            return {"order": await work.run_sync(lambda sync: effect(sync, new.item))}
    else:

        @app.post("/orders", status_code=201)
        def create(new: Order, work: Annotated[Session, Depends(session)]) -> dict[str, int]:
            return {"order": effect(work, new.item)}

    return app


@pytest.fixture
def client(any_db: Database) -> Iterator[TestClient]:
    with TestClient(fastapi_app(any_db)) as client:
        yield client


def test_a_fastapi_handler_works_in_the_session_of_the_claim(any_db: Database, client: TestClient) -> None:
    first, second = (client.post("/orders", json={"item": "tea"}, headers=KEY) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert second.headers["Idempotent-Replayed"] == "true"
    assert any_db.effects() == ["tea"]


def test_fastapis_own_422_is_told_from_that_of_a_used_key(any_db: Database, client: TestClient) -> None:
    assert client.post("/orders", json={"item": "tea"}, headers=KEY).status_code == 201
    reused = client.post("/orders", json={"item": "coffee"}, headers=KEY)
    assert reused.status_code == 422
    assert reused.headers["Content-Type"] == "application/problem+json"
    assert reused.json()["type"].endswith("#key-reused")
    invalid = client.post("/orders", json={"no": "item"}, headers={"Idempotency-Key": "k-2"})
    assert invalid.status_code == 422
    assert "type" not in invalid.json()
    assert any_db.effects() == ["tea"]


def test_a_handler_without_the_middleware_is_told_what_is_missing(plain_db: Database) -> None:
    app = FastAPI()

    @app.post("/orders")
    def create(work: Annotated[Session, Depends(session)]) -> None: ...

    with TestClient(app) as client, pytest.raises(RuntimeError, match="add IdempotencyMiddleware"):
        client.post("/orders")


def test_a_background_task_runs_after_the_commit_and_on_its_own(plain_db: Database) -> None:
    app, seen = FastAPI(), []
    app.add_middleware(IdempotencyMiddleware, plain_db.idem, tenant=SINGLE_TENANT)

    @plain_db.idem.transactional("web.background", key="key")
    def mail(session: Session, key: str) -> int:
        return effect(session, "mail")

    @app.post("/orders")
    def create(work: Annotated[Session, Depends(session)], tasks: BackgroundTasks) -> dict[str, int]:
        def later() -> None:
            seen.append(plain_db.effects())
            mail(key="m-1")

        tasks.add_task(later)
        return {"order": effect(work, "tea")}

    with TestClient(app) as client:
        assert client.post("/orders", headers=KEY).status_code == 200
        assert client.post("/orders", headers=KEY).headers["Idempotent-Replayed"] == "true"
    assert seen == [["tea"]]
    assert plain_db.effects() == ["tea", "mail"]


@pytest.mark.parametrize("amid", ["body", "handler"])
def test_a_client_that_hangs_up_is_no_error_of_a_middleware_outside(any_db: Database, amid: str) -> None:
    app, begun, sent = fastapi_app(any_db), asyncio.Event(), []

    @app.middleware("http")
    async def counted(request: Request, call_next: Any) -> Response:
        return await call_next(request)  # type: ignore[no-any-return]

    @app.post("/slow")
    async def slow(request: Request) -> None:
        begun.set()
        while (await request.receive())["type"] != "http.disconnect":
            pass

    parts = [{"type": "http.request", "body": b"{", "more_body": amid == "body"}]

    async def receive() -> Any:
        if parts:
            return parts.pop()
        if amid == "handler":
            await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("status"))

    headers = [(name.lower().encode(), value.encode()) for name, value in KEY.items()]
    scope = {"type": "http", "method": "POST", "path": "/slow", "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))
    assert sent[0] == (400 if amid == "body" else 503)
    assert begun.is_set() is (amid == "handler")
    assert any_db.rows() == []


def test_a_cart_in_the_session_of_starlettes_is_bought_by_the_attempt_that_commits(any_db: Database) -> None:
    app, runs = fastapi_app(any_db), []
    app.add_middleware(SessionMiddleware, secret_key="for the test")

    @app.get("/fill")
    def fill(request: Request) -> None:
        request.session["cart"] = ["tea"]

    @app.post("/checkout")
    async def checkout(request: Request, work: Annotated[Any, Depends(session)]) -> int:
        runs.append(cart := request.session.pop("cart", []))
        for item in cart:
            if any_db.is_async:
                await work.run_sync(effect, item)
            else:
                effect(work, item)
        if len(runs) == 1:
            raise OperationalError("UPDATE", None, Exception("gone"), connection_invalidated=True)
        return len(cart)

    with TestClient(app) as client:
        client.get("/fill")
        assert client.post("/checkout", headers=KEY).json() == 1
        assert client.post("/checkout", headers={"Idempotency-Key": "k-2"}).json() == 0
    assert runs == [["tea"], ["tea"], []]
    assert any_db.effects() == ["tea"]


@pytest.mark.parametrize("status", [200, 409])
@pytest.mark.parametrize("framework", ["fastapi", "flask"])
def test_an_exception_that_a_framework_answers_is_judged_by_the_answer(
    plain_db: Database, framework: str, status: int
) -> None:
    if framework == "fastapi":
        app = fastapi_app(plain_db)

        @app.exception_handler(LookupError)
        def answer(request: Request, error: LookupError) -> Response:
            return Response("sold out", status)

        @app.post("/buy")
        def buy(work: Annotated[Session, Depends(session)]) -> None:
            effect(work, "noted")
            raise LookupError

        client: Any = TestClient(app)
    else:
        shop = flask_app(plain_db)

        @shop.errorhandler(LookupError)
        def answered(error: LookupError) -> Any:
            return "sold out", status

        @shop.post("/buy")
        def bought() -> None:
            effect(g.session, "noted")
            raise LookupError

        client = shop.test_client()
    answers = [client.post("/buy", headers=KEY) for _ in range(2)]
    assert [(answer.status_code, answer.text) for answer in answers] == [(status, "sold out")] * 2
    assert ("Idempotent-Replayed" in answers[1].headers) == (status == 200)
    assert plain_db.effects() == (["noted"] if status == 200 else [])


def test_duplicates_at_once_are_one_order(plain_db: Database) -> None:
    app = fastapi_app(plain_db)
    answers: list[Any] = []

    with TestClient(app) as client:

        def buy() -> None:
            answers.append(client.post("/orders", json={"item": "tea"}, headers=KEY))

        threads = [threading.Thread(target=buy) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert plain_db.effects() == ["tea"]


def test_a_router_issues_tokens_that_the_middleware_redeems(plain_db: Database) -> None:
    tokens = plain_db.idem.tokens("checkout", ttl=timedelta(minutes=30))
    app = fastapi_app(plain_db, tokens=tokens, tenant=lambda request: request.headers.get("x-user"))

    def user(request: Request) -> str | None:
        return request.headers.get("x-user")

    app.include_router(token_router(tokens, subject=user))
    with TestClient(app) as client:
        me = {"X-User": "user:7"}
        token = client.post("/tokens", headers=me).json()["token"]
        buys = [
            client.post("/orders", json={"item": "tea"}, headers={**me, "X-Idempotency-Token": token}) for _ in range(2)
        ]
        assert [one.status_code for one in buys] == [201, 201]
        other = client.post("/orders", json={"item": "tea"}, headers={"X-User": "u", "X-Idempotency-Token": token})
        assert (other.status_code, other.json()["title"]) == (403, "The token is not valid")
        assert client.post("/tokens").status_code == 400
    assert plain_db.effects() == ["tea"]


def keeps_no_token(db: Database, *issued: str) -> bool:
    """Say whether tokens are two, and stand nowhere in the table."""
    dump = b"".join(bytes(row.result or b"") for row in db.rows())
    return len(set(issued)) == 2 and not any(token.encode() in dump for token in issued)


def test_a_token_that_fastapi_issues_for_a_key_is_stored_nowhere_and_the_next_is_another(any_db: Database) -> None:
    app = fastapi_app(any_db, required=True)
    (middleware,) = app.user_middleware
    tokens = middleware.args[0].tokens("checkout", ttl=timedelta(minutes=30))
    middleware.kwargs["tokens"] = tokens
    app.include_router(token_router(tokens))
    with TestClient(app) as client:
        first, second = (client.post("/tokens", headers=KEY) for _ in range(2))
        assert (first.status_code, second.status_code) == (200, 200)
        issued = [answer.json()["token"] for answer in (first, second)]
        assert keeps_no_token(any_db, *issued)
        buys = [client.post("/orders", json={"item": "tea"}, headers={"X-Idempotency-Token": one}) for one in issued]
    assert [one.status_code for one in buys] == [201, 201]
    assert any_db.effects() == ["tea", "tea"]


class Subject:
    async def __call__(self, request) -> str | None:  # type: ignore[no-untyped-def]
        return subject_of(request)


async def asynchronous(request):  # type: ignore[no-untyped-def]
    return subject_of(request)


def subject_of(request):  # type: ignore[no-untyped-def]
    return request.headers.get("x-user")


def dependency(request: Request) -> str | None:
    return request.headers.get("x-user")


@pytest.mark.parametrize(
    "subject",
    [subject_of, asynchronous, Subject(), lambda request: asynchronous(request), partial(asynchronous), dependency],
    ids=["plain", "async", "object", "lambda", "partial", "dependency"],
)
def test_the_subject_of_a_token_is_awaited_whatever_callable_gives_it(subject: Any) -> None:
    db = db_of("sqlite")
    tokens = db.idem.tokens("checkout", ttl=timedelta(minutes=30))
    app = fastapi_app(db, tokens=tokens, tenant=lambda request: request.headers.get("x-user"))
    app.include_router(token_router(tokens, subject=subject))
    with TestClient(app) as client:
        me = {"X-User": "user:7"}
        token = client.post("/tokens", headers=me).json()["token"]
        redeemed = client.post("/orders", json={"item": "tea"}, headers={**me, "X-Idempotency-Token": token})
        assert redeemed.status_code == 201
        assert client.post("/tokens").status_code == 400
    assert db.effects() == ["tea"]


@pytest.mark.parametrize("remembers", [False, True])
def test_openapi_of_an_applications_own_making_tells_of_the_header_each_time(remembers: bool) -> None:
    app = fastapi_app(db_of("sqlite"))

    def own() -> dict[str, Any]:
        if app.openapi_schema is None or not remembers:
            schema = get_openapi(title="own", version="1", routes=app.routes)
            if not remembers:
                return schema
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = own  # type: ignore[method-assign]
    before = app.openapi()
    document(app)
    for _ in range(2):
        post = app.openapi()["paths"]["/orders"]["post"]
        assert [one["name"] for one in post["parameters"]] == ["Idempotency-Key"]
        assert "409" in post["responses"]
    assert (app.openapi() is before) == remembers


def test_openapi_tells_of_the_header_and_the_refusals_where_requests_are_protected(plain_db: Database) -> None:
    app = fastapi_app(plain_db, required=True)

    @app.get("/orders")
    def look() -> None: ...

    document(app)
    schema = app.openapi()
    post, get = (schema["paths"]["/orders"][method] for method in ("post", "get"))
    (header,) = [one for one in post["parameters"] if one["in"] == "header"]
    assert (header["name"], header["required"]) == ("Idempotency-Key", True)
    for status in ("400", "409", "422"):
        assert "application/problem+json" in post["responses"][status]["content"]
    assert "application/json" in post["responses"]["422"]["content"]
    assert "parameters" not in get
    assert "409" not in get["responses"]
    assert app.openapi() is schema


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"methods": "POST"}, TypeError),
        ({"methods": ()}, ValueError),
        ({"header": "a b"}, ValueError),
        ({"required": "no"}, TypeError),
        ({"syntax": "lax"}, ValueError),
    ],
)
def test_openapi_tells_of_nothing_that_cannot_be(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"{next(iter(options))}= (takes|is)"):
        document(FastAPI(), **options)


def test_a_helper_of_a_framework_refuses_what_it_cannot_work_with() -> None:
    idem = IdemTable(sa.create_engine("sqlite://"))
    tokens = idem.tokens("checkout", ttl=timedelta(minutes=30))
    with pytest.raises(TypeError, match="document takes the FastAPI application, not None"):
        document(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="init_app takes the Flask application, not None"):
        idemtable.web.flask.init_app(None, idem, tenant=SINGLE_TENANT)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tenant= is async"):
        idemtable.web.flask.init_app(Flask(__name__), idem, tenant=asynchronous)
    for issuing in (token_router, idemtable.web.flask.token_blueprint):
        with pytest.raises(
            TypeError, match="subject= takes a function that says whom a token is for, or None, not 'user'"
        ):
            issuing(tokens, subject="user")


def test_openapi_shows_what_a_key_looks_like_and_that_a_body_may_be_unreadable(plain_db: Database) -> None:
    def post(**options: Any) -> dict[str, Any]:
        app = fastapi_app(plain_db, **options)
        document(app)
        return app.openapi()["paths"]["/orders"]["post"]  # type: ignore[no-any-return]

    for syntax in ("lenient", "strict"):
        assert post(syntax=syntax)["parameters"][0]["schema"]["pattern"] == PATTERNS[syntax]
    app = fastapi_app(plain_db)
    document(app)
    with TestClient(app) as client:
        answer = client.post("/orders", content=b"\xff", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] in post()["responses"]["400"]["content"]


def flask_app(db: Database, idem: Any = None, **options: Any) -> Flask:
    app = Flask(__name__)
    idemtable.web.flask.init_app(app, idem or db.idem, **{"tenant": SINGLE_TENANT, **options})

    @app.post("/orders")
    def create() -> Any:
        return {"order": effect(g.session, "tea")}, 201

    @app.get("/orders")
    def look() -> Any:
        return {"has_session": hasattr(g, "session")}

    return app


def test_a_flask_handler_works_in_the_session_of_the_claim(plain_db: Database) -> None:
    client = flask_app(plain_db).test_client()
    first, second = (client.post("/orders", json={}, headers=KEY) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.data == second.data
    assert second.headers["Idempotent-Replayed"] == "true"
    assert plain_db.effects() == ["tea"]
    assert client.get("/orders").json == {"has_session": False}


def test_a_table_that_is_bound_late_is_bound_inside_flasks_context(plain_db: Database) -> None:
    from flask import current_app

    idem = IdemTable(lambda: current_app.config["ENGINE"])
    app = flask_app(plain_db, idem)
    app.config["ENGINE"] = plain_db.engine
    assert app.test_client().post("/orders", headers=KEY).status_code == 201
    assert plain_db.effects() == ["tea"]


def test_one_late_table_serves_several_applications_each_on_its_own_database(tmp_path: Path) -> None:
    from flask import current_app

    idem = IdemTable(lambda: current_app.config["ENGINE"])
    engines = [sa.create_engine(f"sqlite:///{tmp_path / name}") for name in ("a.db", "b.db")]
    for engine in engines:
        IdemTable(engine).create_all()
        app = Flask(__name__)
        app.config["ENGINE"] = engine
        idemtable.web.flask.init_app(app, idem, tenant=SINGLE_TENANT)

        @app.post("/orders")
        def create() -> str:
            return str(g.session.get_bind().url)

        answer = app.test_client().post("/orders", headers=KEY)
        assert answer.text == str(engine.url)
        assert "Idempotent-Replayed" not in answer.headers
        engine.dispose()


def test_the_tenant_of_a_flask_application_may_come_from_its_session(plain_db: Database) -> None:
    import flask

    app = flask_app(plain_db, tenant=lambda request: flask.session.get("user"))
    app.secret_key = "for the test"

    @app.get("/login/<user>")
    def login(user: str) -> str:
        flask.session["user"] = user
        return "in"

    client = app.test_client()
    assert client.post("/orders", headers=KEY).status_code == 400
    for user in ("a", "b"):
        client.get(f"/login/{user}")
        assert "Idempotent-Replayed" not in client.post("/orders", headers=KEY).headers
    assert client.post("/orders", headers=KEY).headers["Idempotent-Replayed"] == "true"
    assert len(plain_db.effects()) == 2


@pytest.mark.parametrize("kind", ["result", "error"])
def test_to_ask_flasks_tenant_tears_no_request_down(plain_db: Database, kind: str) -> None:
    import flask

    def tenant(request: Any) -> str:
        told.append("asked")
        assert flask.request.path == "/orders"
        assert flask.current_app._get_current_object() is app  # type: ignore[attr-defined]
        if kind == "error":
            raise LookupError("no such user")
        return str(flask.session.get("user", "guest"))

    app, told = flask_app(plain_db, tenant=tenant), list[str]()
    app.secret_key = "for the test"

    @app.before_request
    def begin() -> None:
        g.begun = True
        told.append("begun")

    @app.teardown_request
    def end(error: BaseException | None) -> None:
        told.append("ended" if g.begun else "never begun")

    @app.teardown_appcontext
    def give_back(error: BaseException | None) -> None:
        told.append("given back")

    def heard(sender: Flask, **more: Any) -> None:
        told.append("signal")

    client = app.test_client()
    assert client.get("/orders").status_code == 200  # the table is bound in a context of its own
    del told[:]
    with flask.request_tearing_down.connected_to(heard, app):
        if kind == "error":
            with pytest.raises(LookupError):
                client.post("/orders", headers=KEY)
            assert told == ["asked", "given back"]
        else:
            assert client.post("/orders", headers=KEY).status_code == 201
            assert told == ["asked", "given back", "begun", "ended", "signal", "given back"]


def test_a_blueprint_issues_tokens_that_the_middleware_redeems(plain_db: Database) -> None:
    tokens = plain_db.idem.tokens("checkout", ttl=timedelta(minutes=30))
    app = flask_app(plain_db, tokens=tokens, tenant=lambda request: "user:7")
    app.register_blueprint(idemtable.web.flask.token_blueprint(tokens, subject=lambda: "user:7"))
    client = app.test_client()
    token = client.post("/tokens").json["token"]
    answers = [client.post("/orders", data={"token": token, "item": "tea"}) for _ in range(2)]
    assert [one.status_code for one in answers] == [201, 201]
    assert client.post("/orders", data={"token": "no-such-token"}).status_code == 403
    assert plain_db.effects() == ["tea"]


def test_a_token_that_flask_issues_for_a_key_is_stored_nowhere_and_the_next_is_another(plain_db: Database) -> None:
    tokens = plain_db.idem.tokens("checkout", ttl=timedelta(minutes=30))
    app = flask_app(plain_db, tokens=tokens, required=True)
    app.register_blueprint(idemtable.web.flask.token_blueprint(tokens))
    client = app.test_client()
    first, second = (client.post("/tokens", headers=KEY) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    issued = [answer.json["token"] for answer in (first, second)]
    assert keeps_no_token(plain_db, *issued)
    assert [client.post("/orders", data={"token": one}).status_code for one in issued] == [201, 201]
    assert plain_db.effects() == ["tea", "tea"]


def test_flask_says_that_nobody_awaits_the_subject_of_a_token(plain_db: Database) -> None:
    app = flask_app(plain_db)
    app.testing = True
    tokens = plain_db.idem.tokens("checkout", ttl=timedelta(minutes=30))
    with pytest.raises(TypeError, match="subject= is async"):
        idemtable.web.flask.token_blueprint(tokens, subject=Subject())
    whose = Subject()
    app.register_blueprint(idemtable.web.flask.token_blueprint(tokens, subject=lambda request: whose(request)))
    with pytest.raises(TypeError, match="subject= is async"):
        app.test_client().post("/tokens")


def test_a_body_that_ends_before_its_end_is_never_taken_for_a_request(plain_db: Database) -> None:
    environ = EnvironBuilder("/orders", method="POST", headers=KEY, data=b"short").get_environ()
    parts, status, _ = run_wsgi_app(flask_app(plain_db), {**environ, "CONTENT_LENGTH": "9"})
    assert status == "400 Bad Request"
    assert b"#request-incomplete" in b"".join(parts)
    assert (plain_db.effects(), plain_db.rows()) == ([], [])


def test_a_length_that_is_no_number_of_pythons_is_too_large(plain_db: Database) -> None:
    environ = EnvironBuilder("/orders", method="POST", headers=KEY, data=b"short").get_environ()
    _, status, _ = run_wsgi_app(flask_app(plain_db), {**environ, "CONTENT_LENGTH": "9" * 5000})
    assert status.startswith("413 ")
    assert plain_db.effects() == []


def test_a_method_in_small_letters_that_flask_takes_for_post_needs_a_key(plain_db: Database) -> None:
    client = flask_app(plain_db, required=True).test_client()
    sent = {"environ_overrides": {"REQUEST_METHOD": "post"}}
    assert client.post("/orders", **sent).status_code == 400
    answers = [client.post("/orders", headers=KEY, **sent) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert plain_db.effects() == ["tea"]


def test_a_file_that_the_server_would_send_by_itself_is_refused_and_rolled_back(plain_db: Database) -> None:
    app = flask_app(plain_db)
    app.config["USE_X_SENDFILE"] = True

    @app.post("/file")
    def file() -> Any:
        effect(g.session, "tea")
        return send_file(__file__)

    answer = app.test_client().post("/file", headers=KEY)
    assert answer.json["type"].endswith("#response-not-storable")
    assert (plain_db.effects(), plain_db.rows()) == ([], [])


def test_a_streaming_response_of_flasks_is_refused_and_rolled_back(plain_db: Database) -> None:
    app = flask_app(plain_db)

    @app.post("/stream")
    def stream() -> Any:
        effect(g.session, "tea")
        return app.response_class(part for part in ("a", "b"))

    answer = app.test_client().post("/stream", headers=KEY)
    assert answer.status_code == 500
    assert answer.json["type"].endswith("#response-not-storable")
    assert (plain_db.effects(), plain_db.rows()) == ([], [])
