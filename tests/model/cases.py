"""What is searched: the protocol as it is, in several settings, and its mutants."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.model.spin import Way

FOLDER = Path(__file__).parent

STUCK = "No key stuck"
PROPERTIES = {
    "I1": "A key has at most one effect for as long as its row lives, and a call at most one, however often it "
    "tries. What is committed is whole: the effect and its key, and all of the caller's transaction.",
    "I2": "A success that a caller was told of is there, when everybody has gone.",
    "I3": "All who are told the answer of a key are told the same, for as long as its row lives.",
    "I11": "Nobody is told what is not so: that the function broke out of its transaction where it did not, that a "
    "call has failed whose effect is there, or of a deadlock that another attempt would have mended.",
    STUCK: "Whoever comes last gets an answer. Nobody waits for ever, nothing goes on for ever, no transaction is "
    "left open, and no key is committed without a result. A key is said to be in progress only while somebody"
    " is at work.",
}


def _text(path: Path) -> str:
    """Return a model with all that it includes."""
    text = path.read_text(encoding="utf-8")
    return text + "".join(_text(FOLDER / name) for name in re.findall(r'^#include "(.*)"', text, re.M))


@dataclass(frozen=True)
class Case:
    """One search."""

    name: str
    title: str
    file: str
    switches: Mapping[str, str] = field(default_factory=dict)
    way: Way = Way.EVERYWHERE

    @property
    def path(self) -> Path:
        return FOLDER / self.file

    @property
    def properties(self) -> list[str]:
        """Those that a search of the case looks at: the model's own, and what spin finds unasked."""
        text = _text(self.path)
        is_endless = self.way in (Way.ENDLESS, Way.ENDLESS_IF_FAIR)
        return [name for name in PROPERTIES if name == STUCK or (f'"!! {name}: ' in text and not is_endless)]

    @property
    def digest(self) -> str:
        """Another one as soon as a model or the case is another, and what was found before says nothing any more."""
        models = [path.read_bytes() for path in sorted(FOLDER.glob("*.pml"))]
        what = repr((self.file, sorted(self.switches.items()), self.way.name)).encode()
        return hashlib.sha256(b"\0".join([what, *models])).hexdigest()[:16]


@dataclass(frozen=True)
class Mutant(Case):
    """The protocol with a mistake in it, named as in mutants.pml, that a search must find."""

    breaks: str = ""
    """The property."""
    story: str = ""
    """What the picture shows."""


def _case(name: str, title: str, file: str, way: Way = Way.EVERYWHERE, **switches: object) -> Case:
    return Case(name, title, file, {key: str(value) for key, value in switches.items()}, way)


def _mutant(name: str, title: str, file: str, breaks: str, story: str, **switches: object) -> Mutant:
    on = {name.partition("-")[0]: "1"} | {key: str(value) for key, value in switches.items()}
    return Mutant(name, title, file, on, Way.SHORTEST, breaks, story)


_P, _J, _N = "protocol.pml", "joined.pml", "nodes.pml"
_BOTH = "(me % 2)"

CASES = [
    _case("plain", "Two callers, one statement after the other; two faults", _P, FAULTS=2),
    _case("fused", "Two callers whose COMMIT travels with the result; two faults", _P, FAULTS=2, FUSED=1),
    _case("mixed", "One of each; three faults", _P, FAULTS=3, FUSED=_BOTH),
    _case("crowd", "Three callers; one fault", _P, CALLERS=3, FAULTS=1, FUSED=_BOTH),
    _case("lookaside", "Two callers who look before they begin; two faults", _P, FAULTS=2, LOOKASIDE=1),
    _case("expiries", "A row that expires twice; one fault", _P, FAULTS=1, EXPIRIES=2, FUSED=_BOTH),
    _case("ends", "No run goes on for ever; two faults", _P, Way.ENDLESS, FAULTS=2, FUSED=_BOTH),
    _case("joined", "Two tasks inside a call; two faults", _J, FAULTS=2),
    _case("joined-key", "Two tasks that ask for one key; two faults", _J, FAULTS=2, SAME_KEY=1),
    _case("joined-three", "Three tasks; one fault", _J, TASKS=3, FAULTS=1),
    _case(
        "application", "Two tasks in a transaction of the application's own; two faults", _J, FAULTS=2, APPLICATION=1
    ),
    _case("joined-ends", "No run goes on for ever; two faults", _J, Way.ENDLESS, FAULTS=2),
    _case("nodes", "Four callers on two nodes, of which one may crash", _N, CALLERS=4),
    _case(
        "nodes-ends",
        "No run goes on for ever, if each node does its work in the end",
        _N,
        Way.ENDLESS_IF_FAIR,
        CALLERS=3,
    ),
]

_SHORT = {"EXPIRIES": 0, "MAY_RAISE": 0}

MUTANTS = [
    _mutant(
        "CHECK_THEN_ACT",
        "Check, then act",
        _P,
        "I1",
        "It looks whether the key is there and inserts it in the end, with no unique index to decide. Both look "
        "before either has committed.",
        CALLERS=2,
        FAULTS=0,
        **_SHORT,
    ),
    _mutant(
        "KEY_COMMITTED_FIRST",
        "The key is committed first",
        _P,
        STUCK,
        "The claim has a transaction of its own, and the function another one behind it. After a crash between "
        "the two the key says for ever that somebody is at work.",
        CALLERS=1,
        FAULTS=1,
        **_SHORT,
    ),
    _mutant(
        "ROWCOUNT_DECIDES",
        "The row count of ON DUPLICATE KEY UPDATE decides",
        _P,
        "I11",
        "It is one row for the winner and one for whoever comes later. The function runs a second time, and only "
        "the check of the owner at its end keeps the second effect out: the caller is told of a lost claim "
        "instead of the answer that is there.",
        CALLERS=1,
        FAULTS=1,
        **_SHORT,
    ),
    _mutant(
        "PLAIN_SELECT",
        "A plain SELECT reads back",
        _P,
        STUCK,
        "Who has lost the claim reads in the transaction that it has. At REPEATABLE READ that shows what was "
        "there when it began: nothing. It claims again, loses again, and says in the end that somebody is at work"
        " on a key whose answer is there.",
        CALLERS=2,
        FAULTS=0,
        LOOKS=1,
        **_SHORT,
    ),
    _mutant(
        "DIRTY_LOOK",
        "A look at what is not committed",
        _P,
        "I2",
        "At READ UNCOMMITTED a look that does not wait for whoever is changing the row shows a result that is "
        "rolled back afterwards, and gives it to a caller.",
        CALLERS=1,
        FAULTS=1,
        LOOKASIDE=1,
        **_SHORT,
    ),
    _mutant(
        "STORE_WITHOUT_OWNER",
        "The result is stored without a look at the owner",
        _P,
        "I1",
        "A deadlock has ended the transaction under the function, which swallows the error and goes on in the "
        "next one. Meanwhile another caller has claimed the key, and is done. The UPDATE finds a row, and it is "
        "the other's.",
        CALLERS=2,
        FAULTS=1,
        **_SHORT,
    ),
    _mutant(
        "STORE_WITHOUT_OWNER-FUSED",
        "The same, with COMMIT in one packet",
        _P,
        "I1",
        "Here nobody could have looked in between.",
        CALLERS=2,
        FAULTS=1,
        FUSED=1,
        **_SHORT,
    ),
    _mutant(
        "STORE_DOES_NOT_FAIL",
        "The statement before COMMIT does not fail by itself",
        _P,
        "I1",
        "An UPDATE that finds no row is no error, and the server goes on to COMMIT: of an effect without its key.",
        CALLERS=1,
        FAULTS=1,
        FUSED=1,
        **_SHORT,
    ),
    _mutant(
        "ONE_OWNER",
        "All attempts of a call have one owner",
        _P,
        "I1",
        "The function has swallowed the end of its transaction, and the last packet stands in a queue when its "
        "client gives up. The second attempt is right in everything. Then the packet arrives, and finds a row of "
        "its owner's. Therefore each attempt has an owner of its own, by which the call still knows its rows.",
        CALLERS=1,
        FAULTS=2,
        FUSED=1,
        **_SHORT,
    ),
    _mutant(
        "NO_RETRY",
        "Nothing is done again",
        _P,
        "I11",
        "One of several who wait for a key is picked as the victim of a deadlock (1213), or finds that a row has "
        "changed (1020, 40001). Another attempt would have had the answer.",
        CALLERS=1,
        FAULTS=1,
        **_SHORT,
    ),
    _mutant(
        "TRANSIENT_REMEMBERED",
        "An error of the database is remembered",
        _P,
        STUCK,
        "A statement of the function got no lock in time. Kept as the function's answer, it is everybody's, "
        "though the lock has been free for long.",
        CALLERS=1,
        FAULTS=1,
        **_SHORT,
    ),
    _mutant(
        "ACK_BEFORE_COMMIT",
        "The acknowledgement comes before COMMIT",
        _P,
        "I2",
        "A message that was acknowledged is not sent again, and what it asked for was never done.",
        CALLERS=1,
        FAULTS=1,
        **_SHORT,
    ),
    _mutant(
        "PURGE_BY_CLIENTS_CLOCK",
        "The purge goes by the client's clock",
        _P,
        "I1",
        "It is some minutes fast, and a row is deleted whose time is not over.",
        CALLERS=1,
        FAULTS=0,
        **_SHORT,
    ),
    _mutant(
        "PURGE_WITHOUT_GRACE",
        "The purge deletes what has just expired",
        _P,
        "I1",
        "A call has had no answer to its COMMIT, and comes back to ask. Its row was there, has expired, and was "
        "purged in between. Rows stay for a minute past their time.",
        CALLERS=1,
        FAULTS=1,
        **_SHORT | {"EXPIRIES": 1},
    ),
    _mutant(
        "RETRY_INSIDE",
        "A retry inside the caller's transaction",
        _J,
        "I1",
        "A deadlock has rolled back all that the application had written. The call inside begins again by itself,"
        " and succeeds; the application commits the second half of its work without the first.",
        TASKS=1,
        FAULTS=1,
        APPLICATION=1,
        MAY_RAISE=0,
    ),
    _mutant(
        "DOOR_LEFT_OPEN",
        "The door is left open while the call commits",
        _J,
        STUCK,
        "A task that was started inside the call comes when that is about to commit, and is let in. COMMIT goes "
        "through the middle of its work.",
        TASKS=1,
        FAULTS=0,
    ),
    _mutant(
        "NOT_WAITED_FOR",
        "Nobody waits for who is inside",
        _J,
        STUCK,
        "The door was closed, with a task behind it.",
        TASKS=1,
        FAULTS=0,
    ),
    _mutant(
        "NO_TURNS",
        "Two are inside at once",
        _J,
        STUCK,
        "The savepoint of one stands inside that of the other, whose rollback takes it away: the key of a call "
        "that has failed is committed with the rest.",
        FAULTS=0,
    ),
    _mutant(
        "NO_SAVEPOINT",
        "A call inside has no savepoint",
        _J,
        STUCK,
        "It fails, the application handles the exception and commits: a key without a result, and half an effect.",
        TASKS=1,
        FAULTS=0,
        APPLICATION=1,
    ),
    _mutant(
        "NO_RETRY-NODES",
        "Nothing is done again, on two nodes",
        _N,
        "I11",
        "A duplicate on another node is not kept waiting: it runs, and is rolled back by its COMMIT.",
        CALLERS=2,
        FAULTS=0,
    ),
]

RESTS_ON = [
    _mutant(
        "FORGETS_A_COMMIT",
        "A database that forgets what it has committed",
        _P,
        "I3",
        "Durability is turned off (`synchronous_commit=off`, `innodb_flush_log_at_trx_commit=0`), and the server "
        "crashes.",
        CALLERS=1,
        FAULTS=1,
        **_SHORT,
    ),
    _mutant(
        "ASYNCHRONOUS",
        "A replica that has not heard of it",
        _N,
        "I3",
        "COMMIT is acknowledged before another node has it, and that one takes over.",
        CALLERS=2,
        FAULTS=1,
    ),
    _mutant(
        "TWO_PRIMARIES",
        "Two primaries",
        _N,
        "I1",
        "Each of two nodes commits without asking the other.",
        CALLERS=2,
        FAULTS=0,
    ),
]
"""Mistakes of the database, which no protocol mends: the properties are seen to fail on them too."""

ALL: list[Case] = [*CASES, *MUTANTS, *RESTS_ON]
