"""`idemtable ls`, `show`, `forget` and `stats`: what stands in the table."""

from __future__ import annotations

import re

from idemtable import IdemTable
from tests.support.cli import Ended, Run, expire, keep


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
    assert run("forget", "orders", "r-1", "--tenant", "acme", "--yes", *at) == Ended(0, "forgotten\n", "")
    assert run("show", "orders", "r-1", "--tenant", "acme", *at).code == 1


def test_stats_count(idem: IdemTable, url: str, run: Run) -> None:
    keep(idem, "r-1", "r-2")
    expire(idem, 3)
    (stats,) = run("stats", "--json", "--url", url).lines
    assert (stats["rows"], stats["expired"]) == (5, 3)
    assert stats["by_scope"] == {"orders": 5}
    assert stats["by_status"] == {"completed": 5}
    assert re.search(r"^rows +5$", run("stats", "--url", url).out, re.M)
