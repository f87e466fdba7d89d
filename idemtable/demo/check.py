"""What was promised, held against the books. Nothing here knows the library: only the recording, answers and tables."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .recording import Request


@dataclass(frozen=True)
class Answer:
    """One answer that a client got."""

    line: int
    answer: str
    seconds: float
    receipt: dict[str, Any] | None = None


@dataclass(frozen=True)
class Evidence:
    """All there is to judge a run by."""

    requests: list[Request]
    answers: list[Answer]
    ledger: list[tuple[int, str, str, int]]
    """id, request, account, amount."""
    balances: dict[str, int]
    killed: str | None
    """The key of the payment inside which a worker was killed."""
    expired: int
    """Keys whose time was over at the end."""
    purged: int


@dataclass(frozen=True)
class Promise:
    """One promise and whether it was kept; `facts` say by what, or what speaks against it."""

    text: str
    kept: bool
    facts: str


def read_answers(folder: Path) -> list[Answer]:
    """Read what all the workers wrote down."""
    lines = (line for file in sorted(folder.glob("answers-*.jsonl")) for line in file.read_text("utf-8").splitlines())
    return [Answer(**json.loads(line)) for line in lines]


def wanted(requests: list[Request]) -> tuple[Counter[tuple[str, str, int]], set[int]]:
    """Say from the recording alone which payments there must be, and which lines must be refused."""
    payments: Counter[tuple[str, str, int]] = Counter()
    current: dict[str, Request] = {}
    refused = set()
    for line, request in enumerate(requests):
        first = current.get(request.key)
        if first is None or (first.day == 1 and request.day > 1):  # unknown, or expired since
            current[request.key] = request
            payments[request.key, request.account, request.amount] += 1
        elif (first.account, first.amount) != (request.account, request.amount):
            refused.add(line)
    return payments, refused


def promises(evidence: Evidence) -> Iterator[Promise]:
    """Judge a run."""
    payments, refused = wanted(evidence.requests)
    paid = Counter((request, account, amount) for _, request, account, amount in evidence.ledger)
    final = {a.line: a.answer for a in evidence.answers if a.answer in ("paid", "replayed", "refused")}

    open_ = len(evidence.requests) - len(final)
    yield Promise("every request was answered", open_ == 0, f"{len(final):,} of {len(evidence.requests):,}")

    extra, missing = (paid - payments).total(), (payments - paid).total()
    facts = f"{paid.total():,} payments for {payments.total():,} requests to pay"
    if extra or missing:
        facts = f"{extra:,} payments too many, {missing:,} missing"
    yield Promise("every payment was made exactly once", not extra and not missing, facts)

    due, booked = Counter[str](), Counter[str]()
    for (_, account, amount), times in payments.items():
        due[account] += amount * times
    for _, _, account, amount in evidence.ledger:
        booked[account] += amount
    moved = Counter({account: -balance for account, balance in evidence.balances.items() if balance})
    total = f"{_money(booked.total())} in the ledger, {_money(due.total())} in the recording"
    yield Promise("the ledger and every balance are right", due == booked == moved, total)

    different = _different_replies(evidence)
    facts = f"{different:,} keys were answered in two ways" if different else "first answers and replays compared"
    yield Promise("all answers for one payment are identical", not different, facts)

    were = {line for line, answer in final.items() if answer == "refused"}
    facts = f"{len(were):,} refused, {len(refused):,} to refuse"
    yield Promise("a key with another amount was refused, no other was", were == refused, facts)

    yield _failures(evidence, final, paid)

    if evidence.killed is None:
        yield Promise("a worker was killed inside a payment", False, "it never came to that")
    else:
        times = sum(count for (request, _, _), count in paid.items() if request == evidence.killed)
        facts = f"{evidence.killed} was paid {times} time{'s' if times != 1 else ''}"
        yield Promise("the payment of the killed worker was made exactly once", times == 1, facts)

    once = len({r.key for r in evidence.requests if r.day == 1} - {r.key for r in evidence.requests if r.day > 1})
    kept = once == evidence.expired == evidence.purged
    facts = f"{evidence.purged:,} purged, {evidence.expired:,} expired, {once:,} to expire"
    yield Promise("the purge took what had expired and nothing else", kept, facts)


def _failures(evidence: Evidence, final: dict[int, str], paid: Counter[tuple[str, str, int]]) -> Promise:
    failed = {evidence.requests[a.line].key for a in evidence.answers if a.answer == "failed"}
    times = Counter(request for request, _, _ in paid.elements())
    good = sum(times[key] == 1 for key in failed)
    facts = f"{good:,} of {len(failed):,} paid once after their failure"
    return Promise("a payment that failed left nothing behind", bool(failed) and good == len(failed), facts)


def _different_replies(evidence: Evidence) -> int:
    """Count the keys whose answers differ from one another or from the row of the ledger that they name."""
    rows = {id_: rest for id_, *rest in evidence.ledger}
    replies = defaultdict(set)
    wrong = set()
    for answer in evidence.answers:
        if answer.receipt is None:
            continue
        request, receipt = evidence.requests[answer.line], answer.receipt
        # A key of last week that comes back tonight is another payment.
        replies[request.key, request.day == 1].add(json.dumps(receipt, sort_keys=True))
        if rows.get(receipt["payment"]) != [request.key, receipt["account"], receipt["amount"]]:
            wrong.add(request.key)
    return len(wrong | {key for (key, _), answers in replies.items() if len(answers) > 1})


def _money(cents: int) -> str:
    return f"{cents / 100:,.2f}"
