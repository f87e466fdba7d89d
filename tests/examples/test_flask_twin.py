"""The shop with Flask: the same form, sent twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.shop import EXAMPLES

assert EXAMPLES  # importing it lets Python find the examples


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    from shop_flask import create_app

    return create_app(f"sqlite:///{tmp_path / 'shop.db'}").test_client()


def form(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    found = re.search(r'name="token" value="([\w-]+)"', client.get("/", follow_redirects=True).text)
    assert found is not None
    return {"token": found[1], "item": "tea", "quantity": 2, **fields}


def orders(client: FlaskClient) -> list[str]:
    return re.findall(r"<li>(.*?)</li>", client.get("/", follow_redirects=True).text)


def test_a_form_that_is_sent_twice_is_one_order_and_the_second_answer_is_a_replay(client: FlaskClient) -> None:
    filled = form(client)
    first, second = (client.post("/checkout", data=filled) for _ in range(2))
    assert (first.status_code, second.status_code) == (303, 303)
    assert first.headers["Location"] == second.headers["Location"] == "/"
    assert first.data == second.data
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert orders(client) == ["Order 1: 2 × tea"]


def test_two_forms_are_two_orders(client: FlaskClient) -> None:
    for item in ("tea", "cake"):
        assert client.post("/checkout", data=form(client, item=item)).status_code == 303
    assert orders(client) == ["Order 2: 2 × cake", "Order 1: 2 × tea"]


def test_a_form_that_was_used_for_something_else_is_refused(client: FlaskClient) -> None:
    filled = form(client)
    assert client.post("/checkout", data=filled).status_code == 303
    assert client.post("/checkout", data={**filled, "item": "cake"}).status_code == 403
    assert client.post("/checkout", data={"item": "cake"}).status_code == 400
    assert orders(client) == ["Order 1: 2 × tea"]


def test_a_form_is_good_for_the_visitor_who_was_given_it(client: FlaskClient) -> None:
    filled = form(client)
    other = client.application.test_client()
    assert orders(other) == []
    assert other.post("/checkout", data=filled).status_code == 403
    assert client.post("/checkout", data=filled).status_code == 303
    assert (len(orders(client)), len(orders(other))) == (1, 0)


def test_what_is_not_sold_leaves_the_token_as_it_was(client: FlaskClient) -> None:
    filled = form(client)
    assert client.post("/checkout", data={**filled, "item": "a yacht"}).status_code == 422
    assert client.post("/checkout", data=filled).status_code == 303
    assert orders(client) == ["Order 1: 2 × tea"]
