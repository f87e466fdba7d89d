"""S1: nobody gets the reply of another tenant, and nobody shares a space with others without having said so."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import idemtable
from idemtable import AsyncIdemTable, Flag, IdemTable, MissingTenantError
from tests.support.database import Database, effect

TENANTS = ("acme", "zeta")
KEYS = [f"order-{number}" for number in range(1_000)]
CALLED = KEYS[::25]


def crossed(db: Database, tenant_of: Any) -> list[str]:
    """Let two tenants use the same keys, twice; give the replies that were another's."""
    wrong = []

    @db.idem.transactional("security.tenants", key="key", tenant=tenant_of, payload=None, share_scope=True)
    def order(session: Any, key: str, tenant: str) -> str:
        effect(session, f"{key} of {tenant}")
        return f"{key} of {tenant}"

    for _ in range(2):
        for key in CALLED:
            wrong += [reply for tenant in TENANTS if (reply := order(key, tenant)) != f"{key} of {tenant}"]
    return wrong


def test_two_tenants_with_the_same_thousand_keys_never_meet(db: Database) -> None:
    for expected in (Flag.New, Flag.Seen):
        for tenant in TENANTS:
            with db.session() as mine:
                flags = db.idem.claim_many(mine.session, "security.batch", KEYS, tenant=tenant)
                mine.commit()
            assert set(flags) == {expected}
    assert crossed(db, "tenant") == []
    assert len(db.effects()) == len(set(db.effects())) == 2 * len(CALLED)


def test_the_check_finds_a_tenant_that_is_the_same_for_all(db: Database) -> None:
    assert len(crossed(db, lambda key, tenant: "authenticated")) == 2 * len(CALLED)


@pytest.mark.parametrize("nobody", [None, ""])
def test_there_is_no_anonymous_tenant(db: Database, nobody: str | None) -> None:
    with pytest.raises(MissingTenantError):
        crossed(db, lambda key, tenant: nobody)
    assert (db.effects(), db.rows()) == ([], [])


@pytest.mark.parametrize("table", [IdemTable, AsyncIdemTable])
def test_no_verb_that_claims_or_looks_has_a_scope_by_default(table: type) -> None:
    named = [
        (name, parameters["scope"])
        for name, verb in inspect.getmembers(table, inspect.isfunction)
        if not name.startswith("_") and "scope" in (parameters := inspect.signature(verb).parameters)
    ]
    assert {name for name, _ in named} >= {
        "transactional", "transaction", "claim", "claim_many", "unseen", "tokens", "inbox", "get", "forget",
        "stored_result",
    }  # fmt: skip
    # `records` lists those of all scopes unless told one, for an operator.
    assert [name for name, scope in named if scope.default is not inspect.Parameter.empty] == ["records"]
    assert inspect.signature(idemtable.transactional).parameters["scope"].default is inspect.Parameter.empty
