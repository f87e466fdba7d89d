"""`idemtable ls`, `show`, `forget` and `stats`: what stands in the table."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import IdemTable, LostClaimError
from idemtable.upgrade import place
from tests.support.cli import COMMAND, Run, expire, keep


def test_records_are_listed_newest_first(idem: IdemTable, url: str, run: Run) -> None:
    keep(idem, "r-1", "r-2")
    keep(idem, "p-1", scope="payments", tenant="acme")
    listed = run("ls", "--url", url)
    assert listed.code == 0
    assert listed.out.splitlines()[0].split() == ["TENANT", "SCOPE", "KEY", "STATUS", "SIZE", "CREATED", "EXPIRES"]
    assert [line.split()[2] for line in listed.out.splitlines()[1:]] == ["p-1", "r-2", "r-1"]
    assert [line["key"] for line in run("ls", "orders", "--json", "--url", url).lines] == ["r-2", "r-1"]
    assert [line["key"] for line in run("ls", "--limit", "1", "--json", "--url", url).lines] == ["p-1"]
    assert run("ls", "nothing", "--url", url).code == 0


def test_a_key_that_the_output_has_no_characters_for_is_listed_all_the_same(file_url: str) -> None:
    engine = sa.create_engine(file_url)
    keep(IdemTable(engine), "plain", "caf\u00e9 \u2192 \U0001f600")
    engine.dispose()
    environment = os.environ | {"IDEMTABLE_URL": file_url, "PYTHONIOENCODING": "latin-1"}
    for command in (["ls"], ["show", "orders", "caf\u00e9 \u2192 \U0001f600", "--result"]):
        listed = subprocess.run([*COMMAND, *command], capture_output=True, env=environment, timeout=60, check=False)
        assert listed.returncode == 0, listed.stderr
        assert "caf\u00e9 \\u2192 \\U0001f600" in listed.stdout.decode("latin-1")


def test_one_record_is_shown_and_forgotten(idem: IdemTable, url: str, run: Run) -> None:
    at = ("--url", url)
    keep(idem, "r-1", payload={"amount": 2}, tenant="acme")
    assert run("show", "orders", "r-1", *at).code == 1
    shown = run("show", "orders", "r-1", "--tenant", "acme", *at)
    assert shown.code == 0
    assert re.search(r"^status +completed$", shown.out, re.M)
    (facts,) = run("show", "orders", "r-1", "--tenant", "acme", "--json", *at).lines
    assert (facts["tenant"], facts["status"], len(facts["fingerprint"])) == ("acme", "completed", 64)
    assert facts["expires_at"].endswith("+00:00")
    assert run("forget", "orders", "r-1", *at).code == 1
    assert run("forget", "orders", "r-1", "--tenant", "acme", "--yes", *at).code == 0
    assert run("show", "orders", "r-1", "--tenant", "acme", *at).code == 1


def test_stats_count(idem: IdemTable, url: str, run: Run) -> None:
    keep(idem, "r-1", "r-2")
    expire(idem, 3)
    (stats,) = run("stats", "--json", "--url", url).lines
    assert (stats["rows"], stats["expired"]) == (5, 3)
    assert stats["by_scope"] == {"orders": 5}
    assert stats["by_status"] == {"completed": 5}
    assert re.search(r"^rows +5$", run("stats", "--url", url).out, re.M)


def tenants_calls(idem: IdemTable) -> None:
    """For each of two tenants a call that is done, one that failed, and one that left no result."""

    @idem.transactional("pay", key="key", tenant="tenant", remember=(ValueError,), share_scope=True)
    def pay(session: Session, key: str, tenant: str) -> str:
        if key == "bad":
            raise ValueError("declined")
        if key == "stuck":
            session.commit()
        return "receipt-42"

    for tenant in ("ta", "tb"):
        pay("good", tenant)
        with pytest.raises(ValueError, match="declined"):
            pay("bad", tenant)
        with pytest.raises(LostClaimError):
            pay("stuck", tenant)


def test_a_tenants_records_are_found_by_status(idem: IdemTable, url: str, run: Run) -> None:
    tenants_calls(idem)
    expire(idem, 1)

    def found(*options: str) -> set[tuple[str | None, str]]:
        listed = run("ls", *options, "--json", "--url", url)
        assert listed.code == 0
        return {(line["tenant"], line["key"]) for line in listed.lines}

    assert found("--tenant", "ta") == {("ta", "good"), ("ta", "bad"), ("ta", "stuck")}
    assert found("--status", "failed") == {("ta", "bad"), ("tb", "bad")}
    assert found("pay", "--tenant", "tb", "--status", "failed", "--status", "completed") == {
        ("tb", "good"),
        ("tb", "bad"),
    }
    assert found("--unfinished") == {("ta", "stuck"), ("tb", "stuck")}
    assert found("--expired") == {(None, "old-0")}
    assert found("--expired", "--tenant", "ta") == set()
    assert "old-0" in run("ls", "--expired", "--url", url).out
    assert run("ls", "--status", "lock", "--url", url).code == run("ls", "--tenant", "", "--url", url).code == 2


def test_a_result_is_shown_only_where_it_is_asked_for(idem: IdemTable, url: str, run: Run) -> None:
    tenants_calls(idem)
    good, bad, stuck = (("show", "pay", key, "--tenant", "ta", "--url", url) for key in ("good", "bad", "stuck"))
    for options in ((), ("--json",)):
        assert "receipt-42" not in run(*good, *options).out
        assert "receipt-42" in run(*good, "--result", *options).out
        assert "declined" not in run(*bad, *options).out
        assert "declined" in run(*bad, "--result", *options).out
    assert "receipt-42" not in run("ls", "--url", url).out + run("stats", "--url", url).out
    (facts,) = run(*good, "--result", "--json").lines
    assert facts["content"] == '"receipt-42"'
    (facts,) = run(*stuck, "--result", "--json").lines
    assert (facts["content"], facts["content_note"]) == (None, "there is no result")
    assert "there is no result" in run(*stuck, "--result").out


class Upside:
    """A seal that writes text, or does not."""

    def __init__(self, text: bool) -> None:
        self.text = text

    def seal(self, data: bytes, context: bytes) -> bytes:
        return data.hex().encode() + b"gAAAA" if self.text else bytes(255 - byte for byte in data)

    def open(self, data: bytes, context: bytes) -> bytes:
        return bytes.fromhex(data[:-5].decode()) if self.text else bytes(255 - byte for byte in data)


class Raw:
    """A codec that writes what it is given."""

    name = "raw"

    def carrier(self, returns: object) -> Raw:
        return self

    def encode(self, value: str) -> bytes:
        return value.encode()

    def decode(self, data: bytes) -> str:
        return data.decode()


def test_a_result_that_is_no_text_is_told_and_not_printed(file_url: str, run: Run) -> None:
    engine = sa.create_engine(file_url)
    settings = {"text": {"seal": Upside(True)}, "bytes": {"seal": Upside(False)}, "escapes": {"codec": Raw()}}
    for key, given in settings.items():
        keep_text(IdemTable(engine, **given), key, "\x1b[2J")
        shown = run("show", "orders", key, "--result", "--url", file_url)
        assert shown.code == 0
        assert "not text: it was sealed, or the codec" in shown.out
        assert "\x1b" not in shown.out
        assert "gAAAA" not in shown.out
    keep_text(IdemTable(engine, codec=Raw()), "plain", "over and out")
    assert "over and out" in run("show", "orders", "plain", "--result", "--url", file_url).out
    keep_text(IdemTable(engine), "json", "a\x1b\x9b\x7fz")
    (facts,) = run("show", "orders", "json", "--result", "--json", "--url", file_url).lines
    assert facts["content"] == r'"a\u001b\u009b\u007fz"'
    engine.dispose()


def keep_text(idem: IdemTable, key: str, text: str) -> None:
    with idem.transaction("orders", key, returns=str) as claim:
        claim.result = text


def test_messages_name_the_table_and_its_database(url: str, run: Run) -> None:
    database = place(sa.make_url(url))
    where, at = f"the table idemtable in {database}", ("--url", url)
    ended = {
        "none": run("ls", *at),
        "none found": run("ls", "--expired", *at),
        "not there": run("show", "orders", "r-1", *at),
        "nothing to forget": run("forget", "orders", "r-1", *at),
        "purged": run("purge", *at),
        "no tokens": run("tokens", "ls", "orders", *at),
        "no such token": run("tokens", "revoke", "orders", "t", *at),
        "counted": run("stats", *at),
    }
    token = run("tokens", "issue", "orders", *at).out.strip()
    ended["revoked"] = run("tokens", "revoke", "orders", token, *at)
    assert {name for name, one in ended.items() if where not in one.out + one.err} == set()
    missing = run("ls", "--table", "other", *at)
    assert (missing.code, database in missing.err, "the table other is missing" in missing.err) == (3, True, True)


def test_a_schema_is_part_of_the_tables_name(file_url: str, run: Run, tmp_path: Path) -> None:
    missing = run("ls", "--schema", "main", "--table", "other", "--url", file_url)
    assert missing.code == 3
    assert "main.other" in missing.err
