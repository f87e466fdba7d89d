"""What makes two calls one: the key, the tenant, the scope, and what the payload's fingerprint covers."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pydantic
import pytest

from idemtable import (
    FingerprintMismatchError,
    InvalidKeyError,
    KeyRejectedError,
    MissingKeyError,
    MissingTenantError,
    ResultUnreadableError,
    fingerprint,
    metadata,
)
from tests.support.database import Database, effect


@dataclass
class Order:
    request_id: Any
    item: str = "tea"
    tenant: Any = None


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["name", "attribute", "item", "callable"])
def test_a_key_is_found_by_name_by_path_or_by_a_callable(db: Database, form: str) -> None:
    spec: Any = {"name": "key", "attribute": "order.request_id", "item": "order.head.id"}.get(form)
    if form == "callable":
        spec = lambda order, *, key="other": f"made-{order.request_id}"  # noqa: E731

    @db.idem.transactional("order", key=spec, payload=None)
    def create(session: Any, order: Any, *, key: str = "other") -> int:
        return effect(session, "tea")

    order: Any = {"head": {"id": "found"}} if form == "item" else Order("found")
    first = create.outcome(order, key="by-name")
    second = create.outcome(order=order, key="by-name")
    assert (first.replayed, second.replayed) == (False, True)
    expected = {"name": "by-name", "callable": "made-found"}.get(form, "found")
    assert [row.key for row in db.rows()] == [expected]
    assert db.effects() == ["tea"]


def test_positional_and_keyword_calls_are_the_same_request(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, item: str, amount: int = 1) -> int:
        return effect(session, item)

    assert order("k", "tea") == order("k", item="tea") == order(amount=1, item="tea", key="k")
    assert db.effects() == ["tea"]


def test_a_uuid_and_its_canonical_text_are_one_key(db: Database) -> None:
    @db.idem.transactional("order", key="key", payload=None)
    def order(session: Any, key: Any) -> int:
        return effect(session, "tea")

    id = UUID("12345678-1234-5678-1234-567812345678")
    assert order(id) == order(str(id))
    assert order(id) != order(str(id).upper().replace("-", ""))


def test_a_key_taken_from_a_parameters_default_counts(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, item: str, key: str = "constant") -> int:
        return effect(session, item)

    order("tea")
    assert db.idem.get("order", "constant") is not None


@pytest.mark.parametrize("spec", ["kez", "order.", "", "session", "self.key"])
def test_a_wrong_name_fails_at_decoration_and_lists_the_right_ones(sync_db: Database, spec: str) -> None:
    for what in ("key", "tenant"):
        options: dict[str, Any] = {"key": "key"} | {what: spec}
        with pytest.raises(ValueError, match=rf"{what}=.*its parameters are: key, order"):

            @sync_db.idem.transactional("order", **options)
            def order(session: Any, key: str, order: Any) -> None: ...

    with pytest.raises(ValueError, match=r"payload=.*its parameters are: key, order"):

        @sync_db.idem.transactional("order", key="key", payload=("order", spec))
        def other(session: Any, key: str, order: Any) -> None: ...


def test_a_dotted_path_that_ends_early_is_a_missing_key(db: Database) -> None:
    runs = []

    @db.idem.transactional("order", key="order.request.id")
    def create(session: Any, order: Any) -> None:
        runs.append(order)

    for order in ({}, {"request": None}, {"request": {}}, SimpleNamespace(), SimpleNamespace(request=None), None):
        with pytest.raises(MissingKeyError):
            create(order)
    assert runs == []
    assert db.rows() == []


# --- tenants ---------------------------------------------------------------------------------------------------------


def test_the_same_key_of_two_tenants_is_two_and_none_sees_the_others(db: Database) -> None:
    @db.idem.transactional("order", key="key", tenant="tenant", payload=None)
    def order(session: Any, key: str, tenant: str) -> str:
        effect(session, tenant)
        return f"secret of {tenant}"

    assert order("k", "acme") == "secret of acme"
    assert order("k", "globex") == "secret of globex"
    assert order("k", "acme") == "secret of acme"
    assert db.effects() == ["acme", "globex"]
    assert db.idem.get("order", "k", tenant="acme").tenant == "acme"
    assert db.idem.get("order", "k") is None
    assert db.idem.forget("order", "k") is False
    assert db.idem.forget("order", "k", tenant="acme") is True
    assert db.idem.get("order", "k", tenant="acme") is None
    assert db.idem.get("order", "k", tenant="globex").tenant == "globex"


@pytest.mark.parametrize("tenant", [None, ""], ids=repr)
def test_a_tenant_that_is_none_or_empty_is_refused_and_never_shared(db: Database, tenant: Any) -> None:
    runs = []

    @db.idem.transactional("order", key="key", tenant=lambda key, who: who.tenant)
    def order(session: Any, key: str, who: Order) -> None:
        runs.append(key)

    with pytest.raises(MissingTenantError, match="tenant=") as caught:
        order("k", Order("r", tenant=tenant))
    assert caught.value.http_status == 400
    with db.session() as held, pytest.raises(MissingTenantError):
        order.join(held.session, "k", Order("r", tenant=tenant))
    assert runs == []
    assert db.rows() == []


@pytest.mark.parametrize("tenant", ["a\nb", " ", 7, "x" * 256, "a\ud800"], ids=lambda value: ascii(value)[:12])
def test_a_tenant_is_validated_as_a_key_is(sync_db: Database, tenant: Any) -> None:
    @sync_db.idem.transactional("order", key="key", tenant="tenant")
    def order(session: Any, key: str, tenant: Any) -> None: ...

    with pytest.raises(InvalidKeyError, match="the tenant"):
        order("k", tenant)
    assert sync_db.rows() == []


def test_no_tenant_differs_from_every_tenant(db: Database) -> None:
    with db.idem.transaction("pay", "k") as claim:
        claim.result = "shared"
    with db.idem.transaction("pay", "k", tenant="None") as claim:
        assert not claim.replayed
        claim.result = "named"
    with db.idem.transaction("pay", "k", tenant=UUID(int=1)) as claim:
        assert not claim.replayed
    assert len(db.rows()) == 3


# --- payloads --------------------------------------------------------------------------------------------------------


def test_a_parameter_added_with_a_default_keeps_old_requests_valid(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, item: str) -> int:
        return effect(session, item)

    first = order("k", "tea")

    @db.idem.transactional("order", key="key")  # the same function, in the next release
    def order(session: Any, key: str, item: str, gift: bool = False, *, note: str | None = None) -> int:
        return effect(session, item)

    assert order("k", "tea") == first
    assert order("k", "tea", False, note=None) == first
    with pytest.raises(FingerprintMismatchError):
        order("k", "tea", True)
    with pytest.raises(FingerprintMismatchError):
        order("k", "tea", 0)  # type: ignore[arg-type]
    assert db.effects() == ["tea"]


class Transfer(pydantic.BaseModel):
    amount: Decimal
    account: str = pydantic.Field(exclude=True)
    password: pydantic.SecretStr = pydantic.SecretStr("none")


class NewerTransfer(Transfer):
    gift: bool = False
    tags: list[str] = pydantic.Field(default_factory=list)


def test_a_field_that_is_hidden_from_a_dump_counts(db: Database) -> None:
    @db.idem.transactional("pay", key="key")
    def pay(session: Any, key: str, body: Transfer) -> int:
        return effect(session, body.account)

    def body(account: str = "alice", password: str = "p") -> Transfer:
        return Transfer(amount=Decimal(1), account=account, password=pydantic.SecretStr(password))

    first = pay("k", body())
    assert pay("k", body()) == first
    for other in (body("mallory"), body(password="q")):
        with pytest.raises(FingerprintMismatchError):
            pay("k", other)
        with db.session() as held, pytest.raises(FingerprintMismatchError):
            pay.join(held.session, "k", other)
        with pytest.raises(FingerprintMismatchError), db.idem.transaction("pay", "k", payload={"body": other}):
            pass
    assert db.effects() == ["alice"]


def test_an_optional_field_that_a_release_adds_keeps_old_requests_valid(db: Database) -> None:
    @db.idem.transactional("pay", key="key")
    def pay(session: Any, key: str, body: Any) -> int:
        return effect(session, body.account)

    first = pay("k", Transfer(amount=Decimal("10"), account="alice"))
    again = pay.outcome("k", NewerTransfer(amount=Decimal("10.00"), account="alice", gift=False, tags=[]))
    assert (again.value, again.replayed) == (first, True)
    with pytest.raises(FingerprintMismatchError):
        pay("k", NewerTransfer(amount=Decimal("10"), account="alice", gift=True))
    assert db.effects() == ["alice"]


def test_a_path_into_a_payload_that_is_not_there_is_refused(db: Database) -> None:
    with pytest.raises(ValueError, match=r"payload='body\.amont'.*amount, account, password"):

        @db.idem.transactional("pay", key="key", payload=("body.amont",))
        def wrong(session: Any, key: str, body: Transfer) -> int:
            return 1

    @db.idem.transactional("pay", key="key", payload=("body.amont",))
    def pay(session: Any, key: str, body: Any) -> int:
        return effect(session, "x")

    for body in ({"amount": 1}, Transfer(amount=Decimal(1), account="a")):
        with pytest.raises(KeyRejectedError, match=r"body\.amont"):
            pay("k", body)
    assert db.effects() == []
    assert db.rows() == []


def test_all_covers_every_argument_but_the_key(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, *items: str, **more: Any) -> int:
        return effect(session, "x")

    order("k", "a", "b", c=1)
    assert order.outcome("k", "a", "b", c=1).replayed
    for args, kwargs in (("ab", {"c": 1}), (("a",), {"c": 1}), (("a", "b"), {"c": 2}), (("a", "b"), {"d": 1})):
        if tuple(args) == ("a", "b") and kwargs == {"c": 1}:
            continue
        with pytest.raises(FingerprintMismatchError):
            order("k", *args, **kwargs)


def test_a_payload_of_names_covers_those_and_no_other(db: Database) -> None:
    @db.idem.transactional("order", key="key", payload=("amount", "order.item"))
    def create(session: Any, key: str, amount: int, order: Order, trace: str = "") -> int:
        return effect(session, "x")

    create("k", 1, Order("a"))
    assert create.outcome("k", 1, Order("b"), trace="other").replayed
    with pytest.raises(FingerprintMismatchError):
        create("k", 2, Order("a"))
    with pytest.raises(FingerprintMismatchError):
        create("k", 1, Order("a", item="coffee"))


def test_a_payload_of_a_callable_covers_what_it_returns(db: Database) -> None:
    seen: list[Any] = []

    def payload(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return args[1].lower()

    @db.idem.transactional("order", key="key", payload=payload)
    def order(session: Any, key: str, item: str, *, trace: str = "") -> int:
        return effect(session, item)

    order("k", "Tea", trace="1")
    assert order.outcome("k", "TEA", trace="2").replayed
    with pytest.raises(FingerprintMismatchError):
        order("k", "coffee")
    assert seen[0] == (("k", "Tea"), {"trace": "1"})  # the call's own arguments, without the session


def test_a_payload_of_none_checks_nothing(db: Database) -> None:
    @db.idem.transactional("order", key="key", payload=None)
    def order(session: Any, key: str, item: Any) -> int:
        return effect(session, "x")

    order("k", "tea")
    assert order.outcome("k", object()).replayed
    assert db.idem.get("order", "k").fingerprint is None


def test_a_payload_that_has_no_canonical_form_is_refused_before_anything_runs(db: Database) -> None:
    runs = []

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, file: Any) -> None:
        runs.append(key)

    with pytest.raises(TypeError, match="payload="):
        order("k", object())
    assert runs == []
    assert db.rows() == []


@pytest.mark.parametrize("wrong", ["item", 5, (1,), ("item", None)], ids=repr)
def test_a_payload_of_another_kind_is_refused_at_decoration(sync_db: Database, wrong: Any) -> None:
    with pytest.raises(TypeError, match="payload="):

        @sync_db.idem.transactional("order", key="key", payload=wrong)
        def order(session: Any, key: str, item: str) -> None: ...


def test_keys_can_be_left_out_of_the_table_and_still_work(db: Database) -> None:
    idem = db.table(store_keys=False)

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    assert order("secret") == order("secret")
    assert [row.key for row in db.rows()] == [None]
    record = idem.get("order", "secret")
    assert (record.scope, record.key) == ("order", None)
    assert db.idem.get("order", "secret") == record  # what is stored decides, not who looks
    with idem.transaction("block", "secret"):
        pass
    assert [row.key for row in db.rows()] == [None, None]
    assert idem.forget("order", "secret")


@pytest.mark.parametrize("form", ["function", "join", "block", "claim"])
def test_the_row_of_an_older_release_is_the_same_request_in_that_releases_words(
    db: Database, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fingerprint.VERSIONS, 0, (b"\0", lambda payload, defaults: repr(payload).encode()))

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, item: str) -> int:
        return effect(session, item)

    def entered(block: Any, item: str) -> bool:
        with block as claim:
            if not claim.replayed:
                claim.result = db.on(claim.session, lambda session: effect(session, item))
            return bool(claim.replayed)

    def ask(item: str) -> bool:
        """Ask for an item in one of the ways; say whether that was a replay."""
        carried = {"payload": {"item": item}, "returns": int}
        if form == "function":
            return bool(order.outcome("k", item).replayed)
        if form == "block":
            return entered(db.idem.transaction("order", "k", **carried), item)
        with db.session() as held:
            if form == "join":
                replayed = bool(order.join_outcome(held.session, "k", item).replayed)
            else:
                replayed = entered(db.idem.claim(held.session, "order", "k", **carried), item)
            held.commit()
            return replayed

    assert not ask("tea")
    old = fingerprint.fingerprint({"item": "tea"}, 0)
    with db.admin.begin() as connection:
        connection.execute(metadata.tables["idemtable"].update().values(fingerprint=old))
    assert ask("tea")
    with pytest.raises(FingerprintMismatchError):
        ask("coffee")
    with db.admin.begin() as connection:
        connection.execute(metadata.tables["idemtable"].update().values(fingerprint=b"\2" + old[1:]))
    with pytest.raises(ResultUnreadableError, match="upgrade"):
        ask("tea")
    assert db.effects() == ["tea"]
