"""The example shop without a browser: its forms, its API, its migrations."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from fastapi import FastAPI
from fastapi.testclient import TestClient

from idemtable import upgrade as steps
from tests.support.migrations import tables
from tests.support.shop import SHOP, alembic

ADA, BOB = ({"Authorization": f"Bearer key-of-{name}"} for name in ("ada", "bob"))


def orders(app: FastAPI) -> list[tuple[str, int]]:
    with app.state.engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql("SELECT item, quantity FROM orders ORDER BY id")]


def form(client: TestClient, **fields: Any) -> dict[str, Any]:
    found = re.search(r'name="token" value="([\w-]+)"', client.get("/", follow_redirects=True).text)
    assert found is not None
    return {"token": found[1], "item": "tea", "quantity": 1, **fields}


def test_an_api_request_that_is_sent_again_with_its_key_is_one_order(app: FastAPI) -> None:
    with TestClient(app) as client:
        sent = {**ADA, "Idempotency-Key": '"k-1"'}
        first, second = (client.post("/api/orders", json={"item": "tea"}, headers=sent) for _ in range(2))
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.content == second.content
        assert first.headers["Location"] == second.headers["Location"] == f"/api/orders/{first.json()['id']}"
        assert second.headers["Idempotent-Replayed"] == "true"
        assert client.get(first.headers["Location"], headers=ADA).json() == first.json()
        assert client.get("/api/orders", headers=ADA).json() == [first.json()]
    assert orders(app) == [("tea", 1)]


def test_api_requests_at_once_with_one_key_are_one_order(app: FastAPI) -> None:
    answers = []
    with TestClient(app) as client:

        def send() -> None:
            sent = {**ADA, "Idempotency-Key": "k-1"}
            answers.append(client.post("/api/orders", json={"item": "cake", "quantity": 3}, headers=sent))

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [201] * 4
    assert len({answer.content for answer in answers}) == 1
    assert orders(app) == [("cake", 3)]


def test_two_customers_with_one_key_have_an_order_each_and_see_their_own(app: FastAPI) -> None:
    with TestClient(app) as client:
        made = [
            client.post("/api/orders", json={"item": "tea"}, headers={**who, "Idempotency-Key": "k-1"})
            for who in (ADA, BOB)
        ]
        assert [one.headers.get("Idempotent-Replayed") for one in made] == [None, None]
        assert client.get(made[0].headers["Location"], headers=BOB).status_code == 404
        assert client.get("/api/orders", headers=BOB).json() == [made[1].json()]


def test_the_api_asks_who_is_there_before_it_looks_at_a_key(app: FastAPI) -> None:
    with TestClient(app) as client:
        for headers in ({}, {"Authorization": "Bearer of-nobody"}):
            answer = client.post("/api/orders", json={"item": "tea"}, headers={**headers, "Idempotency-Key": "k-1"})
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        keyless = client.post("/api/orders", json={"item": "tea"}, headers=ADA)
        assert (keyless.status_code, keyless.json()["type"].partition("#")[2]) == (400, "key-missing")
    assert orders(app) == []


@pytest.mark.parametrize("path", ["/checkout", "/checkout/here"])
def test_a_form_that_is_sent_twice_is_one_order_and_the_second_answer_is_a_replay(app: FastAPI, path: str) -> None:
    with TestClient(app, follow_redirects=False) as client:
        filled = form(client)
        first, second = (client.post(path, data=filled) for _ in range(2))
        assert first.status_code == second.status_code < 400
        assert first.content == second.content
        assert first.headers.get("Location") == second.headers.get("Location")
        assert second.headers["Idempotent-Replayed"] == "true"
    assert orders(app) == [("tea", 1)]


def test_a_form_that_was_used_for_something_else_is_refused_with_a_page(app: FastAPI) -> None:
    with TestClient(app) as client:
        filled = form(client)
        assert client.post("/checkout", data=filled).url.path.startswith("/orders/")
        other = client.post("/checkout", data={**filled, "item": "cake"})
        assert (other.status_code, other.headers["Content-Type"]) == (403, "text/html; charset=utf-8")
        assert "This form was used before" in other.text
        none = client.post("/checkout", data={"item": "tea"})
        assert (none.status_code, none.headers["Content-Type"]) == (400, "text/html; charset=utf-8")
    assert orders(app) == [("tea", 1)]


def test_a_form_is_good_for_the_visitor_who_was_given_it(app: FastAPI) -> None:
    with TestClient(app) as visitor, TestClient(app) as other:
        filled = form(visitor)
        assert other.post("/checkout", data=filled).status_code == 403
        assert visitor.post("/checkout", data=filled).status_code == 200
    assert orders(app) == [("tea", 1)]


def test_the_shops_migrations_go_up_and_down(database_url: str) -> None:
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    alembic(database_url, "upgrade", "head")
    assert tables(engine) == {"alembic_version", "orders", "idemtable", "idemtable_version"}
    assert steps.check(engine) == []
    alembic(database_url, "check")
    alembic(database_url, "downgrade", "0001")
    assert tables(engine) == {"alembic_version", "orders"}
    alembic(database_url, "downgrade", "base")
    assert tables(engine) == {"alembic_version"}
    alembic(database_url, "upgrade", "head")
    assert steps.check(engine) == []


def test_the_shops_second_revision_is_what_the_command_writes(tmp_path: Path) -> None:
    def body(path: Path) -> str:
        return path.read_text(encoding="utf-8").partition("depends_on")[2]

    (shipped,) = (SHOP / "migrations" / "versions").glob("*_idemtable_step_1.py")
    folder = tmp_path / "shop"
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("__pycache__", shipped.name))
    written = steps.revision(directory=folder)
    assert body(written) == body(shipped)
    assert "schema.upgrade(to=1)" in body(shipped)
    assert ScriptDirectory(str(SHOP / "migrations")).get_revision("head").path == str(shipped)
