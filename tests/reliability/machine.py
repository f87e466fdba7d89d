"""E15: random sequences of everything a caller can do, held step by step against a model; and tasks inside calls."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from idemtable import FingerprintMismatchError, Status, TokenError
from tests.races.test_doors_random import play_threads
from tests.reliability.checker import check_at_rest
from tests.reliability.trial import Trial
from tests.reliability.wire import answer_of
from tests.reliability.worker import WAIT
from tests.support.database import Database, effect

STEPS = "steps of the machine"
SCHEDULES = "schedules of threads inside calls"
KEYS = st.sampled_from(["a", "b"])
TENANTS = st.sampled_from(["x", "y"])
PAYLOADS = st.sampled_from([1, 2])


class Declined(Exception):
    """What is raised and not remembered."""


class Remembered(Exception):
    """What is raised and remembered."""


def machine_of(trial: Trial, db: Database) -> type[RuleBasedStateMachine]:
    """The machine on a database; each run begins with empty tables."""
    idem = db.table(ttl=timedelta(days=1))

    @idem.transactional(
        "machine", key="key", tenant="tenant", payload=("amount",), wait=WAIT, remember=(Remembered,), share_scope=True
    )
    def order(session: Any, key: str, tenant: str, amount: int, ends: str) -> int:
        made = effect(session, f"{tenant} {key}", amount)
        if ends == "declined":
            raise Declined
        if ends == "remembered":
            raise Remembered(key)
        return made

    tokens = idem.tokens("machine tokens", ttl=timedelta(hours=1), replay=False)

    @tokens.transactional(token="token", payload=None)
    def redeem(session: Any, token: str) -> int:
        return effect(session, "token")

    def holds(invariant: str, true: bool, what: str) -> None:
        trial.holds(invariant, true, what)
        assert true, f"{invariant}: {what}"  # and the run is over

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            db.sweep()
            self.done: dict[tuple[str, str], tuple[int, Any]] = {}
            self.effects = 0
            self.issued: list[str] = []

        def _step(self) -> None:
            trial.tried += 1
            trial.hits[STEPS] += 1

        @rule(key=KEYS, tenant=TENANTS, amount=PAYLOADS, ends=st.sampled_from(["", "", "declined", "remembered"]))
        def call(self, key: str, tenant: str, amount: int, ends: str) -> None:
            self._call(key, tenant, amount, ends)

        def _call(self, key: str, tenant: str, amount: int, ends: str) -> None:
            self._step()
            known = self.done.get((tenant, key))
            try:
                outcome = order.outcome(key, tenant, amount, ends)
            except FingerprintMismatchError:
                holds("I10", known is not None, "refused a key that nobody has used")
                holds("I10", known is None or known[0] != amount, "refused the payload of the first call")
            except Remembered:
                holds("I3", known in (None, (amount, "remembered")), f"{known} was answered with an exception")
                holds("I11", known is not None or ends == "remembered", "raised what the function did not")
                self.done[tenant, key] = (amount, "remembered")
            except Declined:
                holds("I1", known is None, "it ran again")
            else:
                if known is None:
                    holds("I8", not outcome.replayed, "a replay of what is not there")
                    self.done[tenant, key] = (amount, outcome.value)
                    self.effects += 1
                else:
                    holds("I10", known[0] == amount, f"{known} was answered to {amount}")
                    holds("I3", known[1] == outcome.value, f"{known} was answered with {outcome.value}")
                    holds("I11", outcome.replayed, "a replay that does not say so")

        # Not left to chance: the same key with another payload.
        @initialize(amount=PAYLOADS)
        def mistaken(self, amount: int) -> None:
            self._call("a", "x", amount, "")
            self._call("a", "x", 3 - amount, "")

        # Oftener than the rest: to find anything the same key has to come again.
        @rule(key=KEYS, tenant=TENANTS, amount=PAYLOADS)
        def once_more(self, key: str, tenant: str, amount: int) -> None:
            self._call(key, tenant, amount, "")

        @rule()
        def expire(self) -> None:
            self._step()
            db.expire()
            self.done.clear()
            self.issued.clear()

        @rule()
        def purge(self) -> None:
            self._step()
            idem.purge()

        @rule(key=KEYS, tenant=TENANTS)
        def forget(self, key: str, tenant: str) -> None:
            self._step()
            there = idem.forget("machine", key, tenant=tenant)
            holds("I6", there or (tenant, key) not in self.done, "a row was not there")
            self.done.pop((tenant, key), None)

        @rule()
        def issue(self) -> None:
            self._step()
            self.issued.append(tokens.issue())

        @rule(twice=st.booleans())
        def spend(self, twice: bool) -> None:
            self._step()
            if not self.issued:
                return
            token = self.issued.pop()
            redeem(token)
            self.effects += 1
            if twice:
                again = answer_of(redeem, token)
                holds("I1", isinstance(again, TokenError), f"a token was redeemed twice: {again!r}")

        @rule()
        def reconnect(self) -> None:
            self._step()
            db.engine.dispose()

        @invariant()
        def agrees(self) -> None:
            with db.admin.connect() as connection:
                count = connection.execute(sa.text("SELECT count(*) FROM effect")).scalar_one()
            holds("I1", count == self.effects, f"{count} effects, not {self.effects}")
            rows = {
                (row.tenant, row.key): row.status for row in db.rows() if row.scope == "machine" and row.key is not None
            }
            holds("I9", rows.keys() >= self.done.keys(), f"{self.done.keys() - rows.keys()} are gone")
            holds("I6", Status.IN_PROGRESS.code not in rows.values(), "a row is in progress")

    return Machine


def model(trial: Trial) -> None:
    """In the quick size few runs of few steps, and two schedules."""
    runs, length, schedules = trial.size(6, 100), trial.size(15, 50), trial.size(3, 60)
    trial.needs(STEPS, 30, 3_000)
    trial.needs(SCHEDULES, 3, 60)
    if trial.mutant is not None:
        runs, schedules = trial.size(4, 60), trial.size(12, 60)
    machine = machine_of(trial, trial.db)
    options = settings(
        max_examples=runs,
        stateful_step_count=length,
        deadline=None,
        database=None,
        print_blob=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    if trial.mutant_name != "DOOR_LEFT_OPEN":
        try:
            run_state_machine_as_test(seed(trial.seed)(machine), settings=options)  # type: ignore[no-untyped-call]
        except AssertionError as error:
            if not trial.wrong:
                trial.broken("I1", str(error))
    trial.db.sweep()
    for number in range(schedules if trial.mutant_name in ("", "DOOR_LEFT_OPEN") else 0):
        trial.tried += 1
        try:
            play_threads(trial.db, trial.seed * 1000 + number)
        except Exception as error:
            trial.broken("I1", f"schedule {trial.seed * 1000 + number}: {error!r}"[:300])
            if trial.mutant is not None:
                break
        trial.hits[SCHEDULES] += 1
    trial.db.sweep()
    if trial.mutant is None:
        check_at_rest(trial)
