"""A protected request: done once for its key, answered alike each time, committed before it is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker

from idemtable import IdemTable
from idemtable.claim import steps
from idemtable.claim.steps import Step
from idemtable.errors import RowLockedError
from idemtable.fingerprint import fingerprint
from idemtable.web import SINGLE_TENANT, Request, keep, keep_nothing
from idemtable.web.exchange import Rules
from idemtable.web.messages import Headers
from tests.support.database import effect
from tests.support.tokens import desk
from tests.support.web import Visit, WsgiSite
from tests.web.conftest import Build


def order(visit: Visit) -> bytes:
    return str(effect(visit.session, visit.body.decode()[:50] or "order")).encode()


def test_a_request_that_is_sent_again_gets_the_same_response_and_is_done_once(site: Build) -> None:
    shop = site(order)
    first, second = (shop.post(key='"k-1"', body=b"tea") for _ in range(2))
    assert (first.status, second.status) == (200, 200)
    assert first.body == second.body
    assert (first.replayed, second.replayed) == (False, True)
    assert shop.db.effects() == ["tea"]


def test_the_response_is_committed_before_its_first_byte_is_sent(site: Build) -> None:
    shop = site(order)
    with shop.watched() as events:
        assert shop.post(key="k-1").status == 200
    assert events[:2] == ["commit", "first byte"]


def test_the_bare_key_and_the_quoted_one_are_one_key(site: Build) -> None:
    shop = site(order)
    assert not shop.post(key="k-1").replayed
    assert shop.post(key='"k-1"').replayed
    assert shop.post(key='"k-1";version=2').replayed


def test_another_body_is_refused_and_changes_nothing(site: Build) -> None:
    shop = site(order)
    first = shop.post(key="k-1", body=b"tea")
    other = shop.post(key="k-1", body=b"coffee")
    assert (other.status, other.problem) == (422, "key-reused")
    assert shop.db.effects() == ["tea"]
    assert shop.post(key="k-1", body=b"tea").body == first.body


def test_the_same_key_on_another_path_is_another_request(site: Build) -> None:
    shop = site(order)
    assert shop.post("/orders/1/pay", key="k-1").status == 200
    assert not shop.post("/orders/2/pay", key="k-1").replayed
    assert len(shop.db.effects()) == 2


def test_path_and_query_belong_to_the_fingerprint_whatever_the_scope_is(site: Build) -> None:
    shop = site(order, scope="pay")
    assert shop.post("/orders/1/pay", key="k-1").status == 200
    assert shop.post("/orders/2/pay", key="k-1").status == 422
    assert shop.post("/orders/1/pay", key="k-1", query="force=1").status == 422
    assert len(shop.db.effects()) == 1


def test_a_handler_that_raises_leaves_nothing_and_runs_again(site: Build) -> None:
    def flaky(visit: Visit) -> bytes:
        effect(visit.session, "order")
        if not attempts:
            attempts.append(1)
            raise LookupError("no")
        return b"done"

    attempts: list[int] = []
    shop = site(flaky)
    with pytest.raises(LookupError):
        shop.post(key="k-1")
    assert (shop.db.effects(), shop.db.rows()) == ([], [])
    assert shop.post(key="k-1").body == b"done"
    assert len(shop.db.effects()) == 1


@pytest.mark.parametrize("status", [400, 409, 500])
def test_a_refusal_of_the_handlers_is_rolled_back_and_not_stored(site: Build, status: int) -> None:
    def refused(visit: Visit) -> Any:
        effect(visit.session, "order")
        return status, [("X-Why", "no")], b"no"

    shop = site(refused)
    for _ in range(2):
        answer = shop.post(key="k-1")
        assert (answer.status, answer["X-Why"], answer.body, answer.replayed) == (status, "no", b"no", False)
    assert (shop.db.effects(), shop.db.rows()) == ([], [])


def test_keep_stores_a_refusal_and_commits_what_was_written(site: Build) -> None:
    def refused(visit: Visit) -> Any:
        effect(visit.session, "declined")
        return keep((402, [("Content-Type", "text/plain")], b"declined"))

    shop = site(refused)
    first, second = shop.post(key="k-1"), shop.post(key="k-1")
    assert (first.status, first.replayed) == (402, False)
    assert (second.status, second.replayed, second.body) == (402, True, b"declined")
    assert shop.db.effects() == ["declined"]


def test_keep_nothing_commits_what_was_written_stores_nothing_and_frees_the_key(site: Build) -> None:
    def secret(visit: Visit) -> Any:
        return keep_nothing(keep((201, [("Content-Type", "text/plain")], order(visit))))

    shop = site(secret, required=True)
    first, second = (shop.post(key="k-1", body=b"tea") for _ in range(2))
    assert (first.status, second.status, second.replayed) == (201, 201, False)
    assert first.body != second.body
    assert [bytes(row.result) for row in shop.db.rows()] == [b""]
    assert shop.db.effects() == ["tea", "tea"]


def test_what_is_kept_nowhere_needs_no_key_and_spends_a_token(site: Build) -> None:
    db = site(order).db
    tokens = desk(db)
    shop = site(lambda visit: keep_nothing(order(visit)), tokens=getattr(tokens, "inner", tokens))
    assert shop.post(body=b"tea").status == 200
    spent = [("X-Idempotency-Token", tokens.issue())]
    answers = [shop.post(body=b"tea", headers=spent) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 409]
    assert answers[1].problem == "result-not-kept"
    assert db.effects() == ["tea", "tea"]


def test_a_request_without_a_key_commits_the_same_way_each_time(site: Build) -> None:
    shop = site(order)
    with shop.watched() as events:
        assert shop.post(body=b"tea").status == 200
    assert events[:2] == ["commit", "first byte"]
    assert shop.post(body=b"tea").status == 200
    assert (shop.db.effects(), shop.db.rows()) == (["tea", "tea"], [])


def test_a_key_that_cannot_be_read_is_refused_with_its_cure(site: Build) -> None:
    shop = site(order)
    answer = shop.post(key="a b", body=b"tea")
    assert (answer.status, answer.problem) == (400, "key-invalid")
    assert b"send it in double quotes" in answer.body
    assert shop.db.effects() == []


def test_a_request_without_the_key_that_it_needs_is_not_run(site: Build) -> None:
    shop = site(order, required=True)
    answer = shop.post()
    assert (answer.status, answer.problem) == (400, "key-missing")
    assert shop.db.effects() == []
    assert 'rel="describedby"' in (answer["Link"] or "")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_left_alone(site: Build, method: str) -> None:
    def look(visit: Visit) -> bytes:
        assert visit.session is None
        return b"seen"

    shop = site(look, required=True)
    assert shop.send(method, "/orders", [("Idempotency-Key", "k-1")]).body == b"seen"
    assert shop.db.rows() == []


def test_a_call_inside_the_handler_is_part_of_its_transaction(site: Build) -> None:
    def handler(visit: Visit) -> Any:
        booked(key="b-1")
        return 500, [], b"no"

    shop = site(handler)

    @shop.db.idem.transactional("web.book", key="key")
    def booked(session: Any, key: str) -> int:
        return effect(session, "booked")

    assert shop.post(key="k-1").status == 500
    assert (shop.db.effects(), shop.db.rows()) == ([], [])


def test_what_runs_after_the_response_is_a_call_of_its_own(site: Build) -> None:
    done: list[Any] = []

    def later() -> None:
        done.append(shop.db.effects())
        mailed(key="m-1")

    shop = site(order, later=later)

    @shop.db.idem.transactional("web.mail", key="key")
    def mailed(session: Any, key: str) -> int:
        return effect(session, "mailed")

    shop.post(key="k-1", body=b"tea")
    assert done == [["tea"]]
    assert shop.db.effects() == ["tea", "mailed"]


def test_a_response_that_is_too_large_to_keep_is_sent_and_its_effect_stands(site: Build) -> None:
    def large(visit: Visit) -> bytes:
        effect(visit.session, "report")
        return b"x" * 1000

    shop = site(large, max_response=999)
    assert shop.post(key="k-1").body == b"x" * 1000
    again = shop.post(key="k-1")
    assert (again.status, again.problem) == (409, "result-not-kept")
    assert shop.db.effects() == ["report"]


def test_a_body_that_is_too_large_is_refused_before_the_handler_runs(site: Build) -> None:
    shop = site(order, max_body=10)
    answer = shop.post(key="k-1", body=b"x" * 11)
    assert (answer.status, answer.problem) == (413, "request-too-large")
    assert (shop.db.effects(), shop.db.rows()) == ([], [])


def test_a_replay_repeats_what_describes_the_body_and_nobodys_secrets(site: Build) -> None:
    def handler(visit: Visit) -> Any:
        link = [("Link", "</a>; rel=next"), ("Link", "</b>; rel=prev")]
        headers = [
            ("Content-Type", "text/csv"),
            ("Set-Cookie", "s=1"),
            ("X-Trace", "7"),
            ("Location", "/orders/1"),
            *link,
        ]
        return 201, headers, b"a,b"

    shop = site(handler)
    first, second = shop.post(key="k-1"), shop.post(key="k-1")
    assert first["Set-Cookie"] == "s=1"
    assert (second.status, second.body) == (201, b"a,b")
    assert [second[name] for name in ("Content-Type", "Location", "Cache-Control")] == [
        "text/csv",
        "/orders/1",
        "no-store",
    ]
    assert second.lines("Link") == ["</a>; rel=next", "</b>; rel=prev"]
    assert (second["Set-Cookie"], second["X-Trace"]) == (None, None)
    assert second["Content-Length"] == "3"


@pytest.mark.parametrize("status", [204, 304])
def test_a_replay_without_a_body_by_its_status_has_no_length_either(site: Build, status: int) -> None:
    shop = site(lambda visit: (status, [("Content-Length", "4"), ("ETag", '"1"')], b"null"))
    first, second = shop.post(key="k-1"), shop.post(key="k-1")
    assert (first.status, second.status, second.replayed) == (status, status, True)
    assert (second["Content-Length"], second["ETag"], second.body) == (None, '"1"', b"")


def test_a_replay_has_the_cache_control_that_the_program_names_and_no_other(site: Build) -> None:
    headers = [("Cache-Control", "private, max-age=60"), ("Cache-Control", "immutable")]
    shop = site(lambda visit: (200, headers if visit.path == "/a" else [], b""), headers=["Cache-Control"])
    answers = [shop.post(path, key="k-1") for path in ("/a", "/a", "/b", "/b")]
    assert [answer.lines("Cache-Control") for answer in answers[1::2]] == [
        ["private, max-age=60", "immutable"],
        ["no-store"],
    ]


@pytest.mark.parametrize("key", ["k-1", None])
@pytest.mark.parametrize("length", ["8", "6", "0", "9" * 5000, "x", "-7", "7, 7", ""])
def test_a_response_of_another_length_than_it_says_is_not_kept_and_changes_nothing(
    site: Build, length: str, key: str | None
) -> None:
    def report(visit: Visit) -> Any:
        effect(visit.session, "report")
        return 201, [("Content-Length", length)], b"line 1\n"

    shop = site(report)
    for _ in range(2):
        answer = shop.post(key=key)
        assert (answer.status, answer.problem) == (500, "response-not-storable")
    assert (shop.db.effects(), shop.db.rows()) == ([], [])


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 204), ("POST", 304)])
def test_a_response_without_a_body_may_name_the_length_of_another(site: Build, method: str, status: int) -> None:
    shop = site(lambda visit: (status, [("Content-Length", "7")], b""), methods=["HEAD", "POST"])
    assert [shop.post(key="k-1", method=method).status for _ in range(2)] == [status, status]
    assert len(shop.db.rows()) == 1


def test_a_length_may_have_zeros_before_it(site: Build) -> None:
    shop = site(lambda visit: (200, [("Content-Length", "0" * 5000 + "3")], b"tea"))
    assert [shop.post(key="k-1").body for _ in range(2)] == [b"tea", b"tea"]


def test_a_method_in_small_letters_is_protected_as_that_in_capitals(site: Build) -> None:
    shop = site(order, required=True)
    first, second, third = (shop.post(key="k-1", method=method) for method in ("post", "Post", "POST"))
    assert (first.status, second.replayed, third.replayed) == (200, True, True)
    assert shop.post(method="post").problem == "key-missing"
    assert len(shop.db.effects()) == 1


def test_methods_that_an_iterator_gives_are_protected(site: Build) -> None:
    shop = site(order, methods=iter(["put", "POST"]))
    assert [shop.post(key="k-1", method="PUT").replayed for _ in range(2)] == [False, True]


def test_one_tenants_response_is_never_anothers(site: Build) -> None:
    shop = site(order, tenant=lambda request: request.headers.get("x-tenant"))
    answers = {name: shop.post(key="k-1", body=b"tea", headers=[("X-Tenant", name)]) for name in ("a", "b")}
    assert answers["a"].body != answers["b"].body
    assert not answers["b"].replayed
    nobody = shop.post(key="k-1", body=b"tea")
    assert (nobody.status, nobody.problem) == (400, "tenant-missing")
    assert len(shop.db.effects()) == 2


def test_a_token_is_redeemed_in_place_of_a_key(site: Build) -> None:
    shop = site(order)
    tokens = desk(shop.db)
    protected = site(order, tokens=getattr(tokens, "inner", tokens))
    token = tokens.issue()
    first = protected.post(headers=[("X-Idempotency-Token", token)])
    second = protected.post(headers=[("X-Idempotency-Token", token)])
    assert (first.status, second.replayed, second.body) == (200, True, first.body)
    bad = protected.post(headers=[("X-Idempotency-Token", "no-such-token")])
    assert (bad.status, bad.problem) == (403, "token-invalid")
    assert len(shop.db.effects()) == 1


def test_a_token_is_found_in_the_form_too(site: Build) -> None:
    tokens = desk(site(order).db)
    shop = site(order, tokens=getattr(tokens, "inner", tokens), tenant=lambda request: "user:7")
    form = f"item=tea&token={tokens.issue('user:7')}".encode()
    urlencoded = [("Content-Type", "application/x-www-form-urlencoded")]
    first, second = (shop.post(body=form, headers=urlencoded) for _ in range(2))
    assert (first.status, second.replayed, second.body) == (200, True, first.body)
    somebodys = f"item=tea&token={tokens.issue('user:8')}".encode()
    assert shop.post(body=somebodys, headers=urlencoded).problem == "token-invalid"
    twice = f"token={tokens.issue('user:7')}&token=x".encode()
    assert shop.post(body=twice, headers=urlencoded).problem == "token-invalid"
    token = tokens.issue("user:7")
    multipart = f'--b\r\nContent-Disposition: form-data; name="token"\r\n\r\n{token}\r\n--b--\r\n'.encode()
    sent = [("Content-Type", "multipart/form-data; boundary=b")]
    assert [shop.post(body=multipart, headers=sent).replayed for _ in range(2)] == [False, True]


def test_the_meaning_of_json_can_be_the_fingerprint(site: Build) -> None:
    shop = site(order, fingerprint="json", scope="orders")
    assert shop.post(key="k-1", body=b'{"a": 1, "b": [2]}').status == 200
    assert shop.post(key="k-1", body=b'{"b":[2],"a":1}').replayed
    assert shop.post(key="k-1", body=b'{"b":[2],"a":2}').status == 422
    assert shop.post(key="k-2", body=b"no json").status == 200
    assert shop.post(key="k-2", body=b"no json").replayed


def test_decimals_of_json_that_differ_are_two_requests_however_late_they_do(site: Build) -> None:
    shop = site(order, fingerprint="json", scope="orders")
    alike = [
        ("1.0", "1.00", "1e0"),
        ("1.000000000000000001", "1000000000000000001e-18"),
        ("1.000000000000000002",),
        ("1e400", "10e399"),
        ("1e401",),
        ("9007199254740993.0",),
        ("9007199254740992.0",),
        ("0.1", "0.10"),
        ("-0.0", "0.0", "0e-999"),
        ("1e-999",),
        ("1e9999999999999999999",),  # beyond what a decimal holds
        ("1e9999999999999999998",),
        ("NaN",),
        ("Infinity",),
    ]
    for number, (first, *others) in enumerate(alike):
        assert shop.post(key=f"k-{number}", body=f'{{"amount": {first}}}'.encode()).status == 200
        for other in others:
            assert shop.post(key=f"k-{number}", body=f'{{"amount":{other}}}'.encode()).replayed, other
        for strangers in alike[max(number - 2, 0) : number]:
            assert shop.post(key=f"k-{number}", body=f'{{"amount": {strangers[0]}}}'.encode()).status == 422, strangers


def test_a_row_of_json_without_odd_numbers_keeps_its_fingerprint() -> None:
    body = b'{"a": [1, 1.5, 1.50, 1e2, -0.0, 0.1, 2.5e-3, NaN, -Infinity, 123456.78], "b": {"c": 12345678901234567890}}'
    rules = Rules(IdemTable(create_engine("sqlite://"))._settings, tenant=SINGLE_TENANT, fingerprint="json")
    assert fingerprint(rules._payload(Request("POST", "/", "", Headers(()), body))) == fingerprint(
        ("POST", "/", "", json.loads(body))
    )


def test_where_the_database_asks_to_begin_again_the_handler_does_with_the_same_body(site: Build) -> None:
    def interrupted(visit: Visit) -> bytes:
        bodies.append(visit.body)
        effect(visit.session, "order")
        if len(bodies) == 1:
            raise OperationalError("UPDATE", None, Exception("gone"), connection_invalidated=True)
        return b"done"

    bodies: list[bytes] = []
    shop = site(interrupted)
    assert shop.post(key="k-1", body=b"tea").body == b"done"
    assert bodies == [b"tea", b"tea"]
    assert len(shop.db.effects()) == 1


class Cart(dict[str, Any]):
    """A session that knows whether it was changed, as frameworks have them."""

    modified = False

    def __setitem__(self, name: str, value: Any) -> None:
        self.modified = True
        super().__setitem__(name, value)

    def pop(self, name: str, *default: Any) -> Any:
        self.modified = True
        return super().pop(name, *default)


class LazyCart:
    """One that is read when it is asked for something."""

    def __init__(self, stored: dict[str, Any]) -> None:
        self._stored, self._cart = stored, None

    def _loaded(self) -> Cart:
        if self._cart is None:
            self._cart = Cart(self._stored)
        return self._cart

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded(), name)

    def __getitem__(self, name: str) -> Any:
        return self._loaded()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._loaded()[name] = value


@pytest.mark.parametrize("kind", [Cart, LazyCart])
def test_each_attempt_finds_the_session_of_the_visitor_as_the_first_one_did(site: Build, kind: Any) -> None:
    def checkout(visit: Visit) -> bytes:
        cart = visit.around["shop.session" if "shop.session" in visit.around else "session"]
        runs.append((cart.modified, len(visit.around["marks"])))
        cart["items"].append("bag")
        visit.around["marks"].add("seen")
        for item in cart.pop("items"):
            effect(visit.session, item)
        cart["paid"] = True
        if len(runs) == 1:
            raise OperationalError("UPDATE", None, Exception("gone"), connection_invalidated=True)
        return b"done"

    for name in ("session", "shop.session"):
        runs: list[Any] = []
        session, marks = kind({"items": ["tea"]}), set[str]()
        shop = site(checkout)
        assert shop.post(key=name, around={name: session, "marks": marks}).body == b"done"
        assert runs == [(False, 0), (False, 0)]
        assert dict(session.items()) == {"paid": True}
        assert session.modified
        assert marks == {"seen"}
    assert shop.db.effects() == ["tea", "bag"] * 2


def test_a_session_keeps_what_a_refusal_of_the_handlers_has_changed_and_nothing_of_one_by_the_library(
    site: Build,
) -> None:
    def checkout(visit: Visit) -> Any:
        visit.around["session"].pop("items")
        visit.around["session"]["told"] = "no tea"
        if visit.body == b"guarded":
            raise RowLockedError("the row is locked")
        return 409, [], b"sold out"

    shop, session = site(checkout), Cart(items=["tea"])
    answer = shop.post(key="k-1", body=b"guarded", around={"session": session})
    assert (answer.status, answer.problem) == (409, "conflict")
    assert (session, session.modified) == ({"items": ["tea"]}, False)
    assert shop.post(key="k-2", around={"session": session}).status == 409
    assert (session, session.modified) == ({"told": "no tea"}, True)
    assert shop.db.effects() == []


def test_what_all_requests_share_is_not_put_back_by_one_that_runs_again(site: Build) -> None:
    def handler(visit: Visit) -> bytes:
        runs.append(1)
        if len(runs) == 1:
            shared["of another request"] = 1
            raise OperationalError("UPDATE", None, Exception("gone"), connection_invalidated=True)
        return b"done"

    runs: list[int] = []
    shared: dict[str, Any] = {}
    assert site(handler).post(key="k-1", around={"state": {"shared": shared}}).body == b"done"
    assert (len(runs), shared) == (2, {"of another request": 1})


def test_a_failing_commit_is_never_answered_with_success(site: Build) -> None:
    later: list[int] = []
    shop = site(order, later=lambda: later.append(1))

    def fail(moment: steps.Moment) -> None:
        if moment.step is Step.STORED:
            raise RuntimeError("no COMMIT")

    with steps.listening(fail), pytest.raises(RuntimeError, match="no COMMIT"):
        shop.post(key="k-1")
    assert (shop.db.effects(), shop.db.rows()) == ([], [])
    assert later == [] or shop.__class__ is WsgiSite  # close() of a WSGI iterable is always called
    assert "first byte" not in shop.events


def test_a_handler_that_commits_gets_a_500_that_names_nothing(site: Build) -> None:
    def broken(visit: Visit) -> bytes:
        effect(visit.session, "order")
        visit.session.commit()
        return b"done"

    shop = site(broken, scope="orders.create")
    for _ in range(2):
        answer = shop.post(key="k-secret")
        assert (answer.status, answer.problem) == (500, "claim-lost")
        assert b"orders.create" not in answer.body
        assert b"k-secret" not in answer.body
    assert len(shop.db.effects()) == 1


def test_a_tenant_that_has_filled_its_quota_is_refused_and_others_are_not(site: Build) -> None:
    shop = site(order, tenant=lambda request: request.headers["x-tenant"], quota=2)
    a, b = [("X-Tenant", "a")], [("X-Tenant", "a ")]
    assert [shop.post(key=f"k-{number}", headers=a).status for number in range(3)] == [200, 200, 429]
    refused = shop.post(key="k-2", headers=a)
    assert (refused.problem, refused["Retry-After"]) == ("too-many-requests", "60")
    assert shop.post(key="k-0", headers=a).replayed
    assert shop.post(key="k-2", headers=b).status == 200
    assert len(shop.db.effects()) == 3
    shop.db.expire()
    assert shop.post(key="k-3", headers=a).status == 200


def test_nothing_of_a_request_is_in_the_log_or_in_a_refusal(site: Build, caplog: pytest.LogCaptureFixture) -> None:
    def broken(visit: Visit) -> bytes:
        effect(visit.session, visit.body.decode())
        visit.session.rollback()
        return b"done"

    shop = site(broken, scope="canary.scope", tenant=lambda request: "canary-tenant")
    caplog.set_level("DEBUG", logger="idemtable")
    answers = [shop.post(key="canary-key", body=b"canary-body") for _ in range(2)]
    answers += [shop.post(key="canary-key" * 40, body=b"canary-body"), shop.post(key="canary key", body=b"canary-body")]
    assert [answer.status for answer in answers] == [500, 500, 400, 400]
    told = [*(record.getMessage() for record in caplog.records), *(answer.body.decode() for answer in answers)]
    assert any("claim-lost" in text for text in told)
    assert not any("canary" in text for text in told)


def test_in_the_outer_transaction_of_a_test_suite_everything_is_undone(site: Build) -> None:
    shop = site(order)

    def suite(table: Any) -> None:
        inside = site(order, idem=table)
        first, second = inside.post(key="k-1", body=b"tea"), inside.post(key="k-1", body=b"tea")
        assert (first.status, second.replayed) == (200, True)
        assert inside.post(key="k-2", body=b"tea").status == 200

    if shop.db.loop is None:
        with shop.db.engine.connect() as connection, connection.begin() as outer:
            suite(IdemTable(sessionmaker(connection)))
            outer.rollback()
    else:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        connection = shop.db.loop.run(shop.db.engine.connect().__aenter__())
        try:
            outer = shop.db.loop.run(connection.begin().__aenter__())
            suite(shop.db.table(async_sessionmaker(connection)))
            shop.db.loop.run(outer.rollback())
        finally:
            shop.db.loop.run(connection.close())
    assert (shop.db.effects(), shop.db.rows()) == ([], [])
