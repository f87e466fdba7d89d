"""What the example shop's OpenAPI says is so: schemathesis sends what it allows, and what it forbids."""

from __future__ import annotations

import os

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings

from idemtable import metadata

try:
    import schemathesis
except ImportError:  # as for a server that is missing
    if os.environ.get("CI"):
        raise
    pytest.skip("!!! NOT TESTED !!! schemathesis is not installed; `make test` does", allow_module_level=True)

ORDERS, ORDER = "/api/orders", "/api/orders/{order_id}"
SOME = {  # of the answers that each kind of request must have found
    (ORDERS, "GET", "positive"): {200},
    (ORDERS, "GET", "negative"): {200, 401},
    (ORDERS, "POST", "positive"): {201},
    (ORDERS, "POST", "negative"): {400, 422},
    (ORDER, "GET", "positive"): {404},
    (ORDER, "GET", "negative"): {401, 422},
}
bounded = settings(
    max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize(("path", "method", "mode"), SOME)
def test_the_shop_answers_as_its_openapi_says(app: FastAPI, path: str, method: str, mode: str) -> None:
    # Not with schemathesis' own decorators: they reach into pytest, and break with its versions.
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    statuses: list[int] = []

    @bounded
    @given(schema[path][method].as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def asked(case: schemathesis.Case) -> None:
        # A key that is drawn twice, with two orders, is rightly a 422.
        with app.state.engine.begin() as connection:
            connection.execute(sa.delete(metadata.tables["idemtable"]))
        answer = case.call_and_validate(headers={"Authorization": "Bearer key-of-ada"})
        statuses.append(answer.status_code)

    asked()
    assert SOME[path, method, mode] <= set(statuses)


def test_the_operations_are_those_of_the_openapi_and_it_tells_of_key_and_refusals(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    assert {(path, method.upper()) for path in paths for method in paths[path]} == {one[:2] for one in SOME}
    post = paths["/api/orders"]["post"]
    assert [one["name"] for one in post["parameters"] if one["required"]] == ["Idempotency-Key"]
    assert set(post["responses"]) == {"201", "400", "401", "409", "422"}
