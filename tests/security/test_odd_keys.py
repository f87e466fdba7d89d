"""S7 and S8: a key, a tenant or a scope never becomes part of a statement, and two different ones never become one."""

from __future__ import annotations

import unicodedata
from itertools import islice, product
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import Flag, IdemTable
from tests.security.conftest import KINDS
from tests.support.database import INNODB, Database, effect

INJECTIONS = [
    "'; DROP TABLE effect; --", '"; DROP TABLE effect; --', "`; DROP TABLE effect; --", "\\'; DROP TABLE effect; -- ",
    "\\", "\\\\'", "' OR '1'='1", "x') ON CONFLICT DO NOTHING; --", "%s", "%(key)s", ":key", "?", "$1", "{table}", "{}",
    "/*!50000 DROP TABLE effect */", "\u02bc; DROP TABLE effect", "\xbf'; DROP TABLE effect", "\uff07 OR 1=1",
    "0x27", "NULL", "DEFAULT", "1; SELECT pg_sleep(1)", "$$; DROP TABLE effect; $$",
]  # fmt: skip
NAMES = [
    'x"; DROP TABLE effect; --',
    "x`; DROP TABLE effect",
    "a b",
    "a.b",
    "a\nb",
    "a%b",
    "a:b",
    "",
    "Ünï",
    "1a",
    "x" * 300,
]


def test_what_a_client_sends_travels_as_a_value(db: Database) -> None:
    texts: list[str] = []

    @db.idem.transactional("security.injected", key="key", tenant="tenant")
    def order(session: Any, key: str, tenant: str, note: str) -> str:
        effect(session, "done")
        return note

    def tell(*args: Any) -> None:
        texts.append(args[2])

    # In both ways: as the library sends its statements by itself, and through the driver's cursor with somebody listening.
    for round_, listens in enumerate((False, True)):
        if listens:
            sa.event.listen(db.engine, "before_cursor_execute", tell)
        try:
            for text in INJECTIONS:
                key, tenant = f"{text}{round_}", text
                for replayed in (False, True):
                    outcome = order.outcome(key, tenant, text)
                    assert (outcome.value, outcome.replayed) == (text, replayed)
                record = db.idem.get("security.injected", key, tenant=tenant)
                assert (record.key, record.tenant) == (key, tenant)
        finally:
            if listens:
                sa.event.remove(db.engine, "before_cursor_execute", tell)
    assert len(db.effects()) == 2 * len(INJECTIONS)
    hostile = [text for text in INJECTIONS if "DROP" in text or "OR" in text]
    assert texts, "nobody was told of a statement"
    assert [text for text in texts for part in hostile if part in text] == []


def test_a_scope_is_a_value_too(db: Database) -> None:
    for text in INJECTIONS:
        with db.idem.transaction(text, "k") as claim:
            assert not claim.replayed
            claim.result = text
    for text in INJECTIONS:
        with db.idem.transaction(text, "k") as claim:
            assert (claim.replayed, claim.result) == (True, text)


@pytest.mark.parametrize("word", ["table", "schema"])
@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_sent_as_a_value_is_refused_before_anything_is_sent(db: Database, word: str, name: str) -> None:
    with pytest.raises(ValueError, match=word):
        IdemTable(db.engine, **{word: name})


# --- two keys that look like one ------------------------------------------------------------------------------------------

COUNT = 10_000
BASES = (
    "key",
    "straße",
    "café",
    "İstanbul",
    "ﬁle",
    "Ω",
    "\uff4b\uff45\uff59",
    "æ",
    "ŉ",
    "한글",
    "ё",
    "\u0131",
    "\u017f",
    "①",
    "e\u0301",
    "K",
)


def odd() -> list[str]:
    """Texts that collations, paddings, foldings and normal forms take for one another."""
    forms: list[Any] = [
        str, str.upper, str.lower, str.title, str.casefold, str.swapcase,
        *(lambda text, form=form: unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")),
    ]  # fmt: skip
    around = [
        "",
        " ",
        "  ",
        "\u00a0",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u00ad",
        "\u3000",
        ".",
        "\u0301",
        "\ufe0f",
        "0",
        "-",
    ]
    long = "x" * 200  # where a column or an index prefix would have cut it
    variants = (
        before + form(base) + after + tail
        for tail, base, form, before, after in product(("", "\U0001f375", long), BASES, forms, around, around)
    )
    found = dict.fromkeys(text for text in variants if text.strip() and len(text.encode()) <= 255)
    return list(islice(found, COUNT))


def test_ten_thousand_odd_keys_are_as_many_keys(db: Database) -> None:
    keys = odd()
    assert len(keys) == COUNT
    for expected in (Flag.New, Flag.Seen):
        with db.session() as mine:
            flags = db.idem.claim_many(mine.session, "security.odd", keys)
            mine.commit()
        assert set(flags) == {expected}
    assert {row.key for row in db.rows()} == set(keys)


def test_odd_keys_odd_tenants_and_odd_scopes_each_have_a_run_of_their_own(db: Database) -> None:
    names = [
        "key",
        "Key",
        "KEY",
        "key ",
        " key",
        "kéy",
        "ke\u0301y",
        "\uff4b\uff45\uff59",
        "ss",
        "ß",
        "ẞ",
        "key\u200b",
        "key\u00ad",
    ]
    for place in ("key", "tenant", "scope"):
        for expected in (False, True):
            for name in names:
                given = {"scope": "security.fixed", "key": "k", "tenant": "t", place: name + place}
                with db.idem.transaction(given["scope"], given["key"], tenant=given["tenant"]) as claim:
                    assert claim.replayed is expected, (place, name)
                    if not expected:
                        claim.result = name
                    assert claim.result == name


# PostgreSQL and SQLite compare text by its bytes, unless a column asks for something else.
@pytest.mark.parametrize("db", [name for name in KINDS if name in INNODB], indirect=True)
def test_the_check_finds_a_table_that_tells_keys_apart_by_its_collation(db: Database) -> None:
    keys = odd()[:2_000]
    db.execute("CREATE TABLE by_text (k VARCHAR(255) PRIMARY KEY) CHARACTER SET utf8mb4")
    try:
        with db.admin.begin() as connection:
            connection.execute(sa.text("INSERT IGNORE INTO by_text VALUES (:k)"), [{"k": key} for key in keys])
        assert db.execute("SELECT count(*) FROM by_text")[0][0] < len(keys) / 2
    finally:
        db.execute("DROP TABLE by_text")
