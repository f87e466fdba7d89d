"""Everybody sends the same request at once: how often it runs, what the callers get, and how fast that is."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from tests.benchmarks.bench import Bench
from tests.benchmarks.harness import Figures
from tests.benchmarks.variants import ALONE, BARE, FIRST, HAND
from tests.benchmarks.work import AMOUNT, ENTER, PAY, new_run, numbers, orders, payment

CLIENTS = 8
HOLD = 0.001
"""Seconds that the business takes beside its statements, so that everybody else has come before it commits."""


class Storm:
    """Counts what happens in a storm.

    Args:
        base, engine: as for a `Bench`.
    """

    def __init__(self, base: sa.Engine, engine: sa.Engine) -> None:
        self._bench = Bench(base, engine, work=self._work)
        self._lock = threading.Lock()
        self._runs: Counter[int] = Counter()

    def blow(self, rounds: int, keys: int) -> Figures:
        """Send requests with `keys` keys a round, each from all clients at once; compare with the claim by hand."""
        calls = {of.name: of.make(self._bench) for of in FIRST if of.everywhere and of not in (BARE, ALONE)}
        rates: dict[str, list[float]] = {name: [] for name in calls}
        totals: dict[str, Counter[str]] = {name: Counter() for name in calls}
        order = list(calls)
        for name in calls:
            self._round(name, calls[name], 2, Counter())  # every client has its connection then
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                rates[name].append(self._round(name, calls[name], keys, totals[name]))
        found: Figures = {}
        for name, total in totals.items():
            ratios = sorted(mine / base for mine, base in zip(rates[name], rates[HAND.name], strict=True))
            found[name] = {
                "ratio": statistics.median(ratios),
                "low": ratios[0],
                "high": ratios[-1],
                "rate": statistics.median(rates[name]),
                **{what: total[what] for what in ("keys", "calls", "runs", "effects", "errors")},
            }
        return found

    def _round(self, name: str, call: Callable[[str, int], Any], keys: int, total: Counter[str]) -> float:
        """Return calls a second."""
        run, wanted = new_run(), [next(numbers) for _ in range(keys)]
        answers: dict[int, list[Any]] = {number: [] for number in wanted}
        errors: list[Exception] = []
        start = threading.Barrier(CLIENTS)
        self._runs.clear()

        def client() -> None:
            for number in wanted:
                start.wait()
                try:
                    answer = call(f"{run}-{number}", number)
                except Exception as error:
                    errors.append(error)
                else:
                    answers[number].append(answer)

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - begin
        for got in answers.values():
            assert all(answer == got[0] for answer in got), f"{name}: callers of one key got different answers"
        total["keys"] += keys
        total["calls"] += keys * CLIENTS
        total["runs"] += self._runs.total()
        total["effects"] += self._effects(name, wanted)
        total["errors"] += len(errors)
        return keys * CLIENTS / elapsed

    def _work(self, session: Any, number: int) -> dict[str, int]:
        with self._lock:
            self._runs[number] += 1
        id = next(numbers)
        session.execute(ENTER, {"id": id, "customer": -number, "amount": AMOUNT})
        # The work of a request, which holds its key: in none at all the others would not be there yet.
        time.sleep(HOLD)
        session.execute(PAY, payment())
        return {"order_id": id, "amount": AMOUNT}

    def _effects(self, name: str, wanted: list[int]) -> int:
        """Count what was committed, and see that each of the keys has left something."""
        engine = self._bench.base if name == HAND.name else self._bench.engine
        mine = orders.c.customer.in_([-number for number in wanted])
        query = sa.select(sa.func.count(), sa.func.count(orders.c.customer.distinct())).where(mine)
        with engine.connect() as connection:
            all_of_them, of_keys = connection.execute(query).one()
        assert of_keys == len(wanted), f"{name}: a request has had no effect"
        return int(all_of_them)
