"""The page of the model, made from what was found and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.model.cases import CASES, MUTANTS, PROPERTIES, RESTS_ON, Case, Mutant
from tests.model.picture import draw
from tests.model.results import FOLDER, NAME, Results

PAGE = "model.md"

_HEAD = f"""<!-- Made by `make model` from {NAME}, which it keeps beside this page: change neither by hand. -->

# The model

Tests try some orders in which things can happen. For the protocol itself that is not enough: so it is also written down
in Promela, in `tests/model/`, and [Spin](https://spinroot.com) goes through **every** order of every step of the callers,
the purge, the clock and the server, with a crash before and after each step. Either it finds a state in which a property
does not hold, or there is none.

```console
make model                          # all of it, and this page: about two minutes
make model ARGS="fused ONE_OWNER"   # some searches
make model ARGS=--render            # this page, of what was found before
```

It ends with exit code 1 if a property fails, or if a mistake that was put in on purpose is not found. Spin and a small C
compiler are taken from the PATH, or else from Debian's packages, which are not installed. A test holds the names of the
model's steps against those of `idemtable/claim/steps.py`, and this page against the model.
"""

_MODELLED = """## What is modelled

- **`protocol.pml`**: one key and callers who all ask for it, as `claim/run.py`, `attempt.py` and `settle.py` do: the
  claim, the row that was there instead and what `policy.decide` makes of it, the function, the result, COMMIT, and
  the next attempt. COMMIT is sent after the result, or in one packet with it. The function returns, raises, raises
  what is remembered, gets no lock, or swallows that its transaction has ended and goes on in the next one. A caller
  that crashed asks again.
- **`database.pml`**: what that rests on. A transaction holds the key until it ends; who wants it waits. Each
  statement can end in a deadlock or a serialization failure, or lose its connection: then the server notices in its
  own time, and a COMMIT that was on its way arrives or does not. A server that crashes is all of its connections
  lost. A row expires, and is purged a minute later by a purge that may crash as well.
- **`joined.pml`**: tasks or threads inside a call, or in a transaction of the application's own: the door, the turns,
  the savepoints, a call that ends while they are at work, a process that crashes.
- **`nodes.pml`**: two nodes that may both be written to, where the first to commit wins, as in Galera and Group
  Replication. One may crash.

A **visitor** comes when all others have gone and nothing goes wrong any more. It must get an answer.
"""

_NOT_MODELLED = """## What is not

- Payloads and fingerprints, tokens, locks by name, batches: rows of one kind with one payload.
- More than one key at a time, so nothing that takes two keys for one: what `INSERT IGNORE` does with long ones is for
  the tests.
- The claim that travels with the function's first statement (`deferred=True`), a standby for which PostgreSQL waits,
  a failover that is waited for.
- A function that commits by itself: its key stays without a result until somebody forgets it, and that is meant.
- Time but for its order. That a lost COMMIT is settled within a minute, that no eight attempts in a row are the
  victim, and that a node does what is in the order before eight attempts are over, is assumed.
- More callers, faults and expiries than the table below says. Mistakes mostly show with few of each.
- What only one engine does. All of them keep a key for one transaction at a time, and that is what the protocol rests on.
- The code. That the library does what the model does is what the tests are for.
"""


def render(results: Results) -> str:
    """Make the page."""
    lines = [_HEAD, _MODELLED, _NOT_MODELLED, *_properties(results), *_searches(results), *_mutants(results)]
    return "\n".join([*lines, *_pictures(results)]).rstrip() + "\n"


def write(results: Results, folder: Path = FOLDER) -> None:
    """Make the page anew."""
    (folder / PAGE).write_text(render(results), encoding="utf-8")


def _properties(results: Results) -> Iterator[str]:
    yield "## What must hold\n\n| | | broken by |\n|---|---|---|"
    for name, sentence in PROPERTIES.items():
        mutants = [case for case in [*MUTANTS, *RESTS_ON] if case.name in results and results[case.name].broken == name]
        yield f"| **{name}** | {sentence} | {', '.join(map(_link, mutants)) or 'no mutant'} |"
    yield "\nA property that nothing can break says nothing: the last column names the mistakes below that break it.\n"


def _searches(results: Results) -> Iterator[str]:
    yield (
        "## What was searched\n\nEvery state, for the properties named. A fault is anything that goes wrong: a deadlock, a "
        "lost\nconnection, a crash. Seconds are those of one run, with the compiler's.\n\n"
        "| | model | states | longest run, steps | seconds | |\n|---|---|---|---|---|---|"
    )
    for case in CASES:
        if result := results.get(case.name):
            found = result.found
            seen = f"{', '.join(case.properties)}: hold" if not result.broken else f"**{result.broken} is broken**"
            yield f"| {case.title} | `{case.file}` | {found.states:,} | {found.depth:,} | {found.seconds} | {seen} |"
    yield ""


def _mutants(results: Results) -> Iterator[str]:
    yield (
        "## Mistakes that it finds\n\nA mutant is the protocol with one mistake in it. Each must be found, with the "
        "shortest way to the harm.\n\n| mutant | breaks | states | steps | seconds | |\n|---|---|---|---|---|---|"
    )
    yield from (_row(case, results) for case in MUTANTS if case.name in results)
    yield (
        "\nAnd these are mistakes of the database, which no protocol mends: what the promise "
        "[rests on](when-can-my-code-run-twice.md).\n\n| | breaks | states | steps | seconds | |\n|---|---|---|---|---|---|"
    )
    yield from (_row(case, results) for case in RESTS_ON if case.name in results)
    yield ""


def _row(case: Mutant, results: Results) -> str:
    result = results[case.name]
    verdict = "caught" if result.is_as_it_should(case) else "**survives**"
    found = result.found
    return f"| {_link(case)} | {result.broken} | {found.states:,} | {found.depth} | {found.seconds} | {verdict} |"


def _link(case: Case) -> str:
    anchor = "".join(char for char in case.title.lower() if char.isalnum() or char in " -_").replace(" ", "-")
    return f"[{case.title}](#{anchor})"


def _pictures(results: Results) -> Iterator[str]:
    yield (
        "## The counter-examples\n\nWords in capitals are the steps that a call tells to whoever listens, or what a row "
        "says. A caller\nthat crashes and asks again keeps its letter.\n"
    )
    for case in [*MUTANTS, *RESTS_ON]:
        if case.name in results:
            yield from _picture(case, results[case.name].found.trail)


def _picture(case: Mutant, trail: Sequence[str]) -> Iterator[str]:
    outer = "Application" if "APPLICATION" in case.switches else ""
    picture = f"```mermaid\n{draw(case.file, trail, outer=outer)}\n```" if trail else "It was not found."
    yield f"### {case.title}\n\n{case.story}\n\n{picture}\n"
