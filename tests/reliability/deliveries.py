"""E13: a broker that delivers each message several times and in any order, and consumers that are killed in between."""

from __future__ import annotations

import queue
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from idemtable import IdemTable
from tests.reliability.checker import check_at_rest
from tests.reliability.trial import Trial
from tests.reliability.worker import WAIT, engine_of
from tests.support import PATIENCE
from tests.support.database import effect
from tests.support.forked import Forked

AGAIN = "deliveries of what had been delivered before"
KILLED = "consumers killed before they had acknowledged"
GROUPS = ("billing", "shipping")
POISON = "poison"
HOLD = "hold"
"""Tells a handler to stay at work until it is killed."""
_AT_WORK = 0.02
"""Seconds that a handler takes after it has written, so that whoever is to be killed at work is."""


class Poison(Exception):
    """What a message does to its handler, each time."""


def consume(url: str, backend: str, group: str, mutant: str) -> None:
    """Handle each message that comes by stdin, and acknowledge it on stdout."""
    engine = engine_of(url, backend)
    acknowledged: set[str] = set()
    hold = False

    def acknowledge(message_id: str, before: str = "") -> None:
        acknowledged.add(message_id)
        print(f"{before}ack {message_id}", flush=True)

    @IdemTable(engine, wait=WAIT).inbox(f"deliveries.{group}").transactional(message_id="message_id")
    def handle(session: Any, message_id: str) -> None:
        if POISON in message_id:
            raise Poison
        effect(session, f"{group} {message_id}")
        if mutant == "ACK_BEFORE_COMMIT":
            acknowledge(message_id, f"work {message_id}\n")  # both, or it would seem that nobody had been at work
        else:
            print(f"work {message_id}", flush=True)
        time.sleep(PATIENCE if hold else _AT_WORK)
        session.execute(sa.text("SELECT 1"))

    for line in sys.stdin:
        message_id, *how = line.split()
        hold = how == [HOLD]
        acknowledged.clear()
        try:
            handle(message_id)
        except Poison:
            print(f"refused {message_id}", flush=True)
            continue
        if not acknowledged:
            acknowledge(message_id)
        print(f"over {message_id}", flush=True)


class Consumer:
    """One process, and what it says."""

    def __init__(self, trial: Trial, group: str) -> None:
        db = trial.db
        url = db.url.render_as_string(hide_password=False)
        self.process = Forked(consume, url, db.backend, group, trial.mutant_name)
        self.said: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.said.put(line.strip())

    def deliver(self, message_id: str, how: str = "") -> None:
        self.process.stdin.write(f"{message_id} {how}\n")
        self.process.stdin.flush()

    def answer(self, seconds: float = PATIENCE) -> str:
        try:
            return self.said.get(timeout=seconds)
        except queue.Empty:
            assert not seconds, f"a consumer says nothing (its exit code is {self.process.code})"
            return ""

    def close(self) -> None:
        self.process.kill()
        self._thread.join(PATIENCE)
        self.process.close()


@dataclass
class Delivery:
    """One message to one consumer, and what that said."""

    message_id: str
    said: list[str]
    is_again: bool
    """Whether it had been delivered before."""
    has_worked: bool
    """Whether its handler has run, in this delivery or before."""


def deliver(trial: Trial) -> None:
    """Each group's messages, delivered one to five times each, in any order, until each was acknowledged so often."""
    # A mutant shows itself at each of the killed consumers, and needs fewer.
    count, kills = trial.size(12, 1_500 if trial.mutant is None else 300), trial.size(4, 100)
    trial.needs(AGAIN, 6, 1_000)
    trial.needs(KILLED, 1, 60)
    brokers = []
    for group in GROUPS:
        names = [f"m{number}" for number in range(count)] + [f"{POISON}{number}" for number in range(2)]
        # Those whose consumers are killed come once: a second delivery is answered at once, and nobody is at work.
        once = set(names[: kills // len(GROUPS)])
        due = [name for name in names for _ in range(1 if name in once else trial.chance.randint(1, 5))]
        trial.chance.shuffle(due)
        chance = random.Random(trial.chance.getrandbits(64))  # its own, so that the seed says what it does
        brokers.append(partial(_delivered, trial, group, due, once, chance))
    acks: Counter[str] = Counter()
    with ThreadPoolExecutor(len(brokers)) as pool:
        for group, done in zip(GROUPS, [pool.submit(broker) for broker in brokers], strict=True):
            for one in done.result():
                _judge(trial, group, one, acks)
    effects = Counter(trial.db.effects())
    for name, times in acks.items():
        trial.holds("I4", effects[name] >= 1, f"{name} was acknowledged {times} times, and was not done")
    for name, times in effects.items():
        trial.holds("I1", times == 1, f"{name} was done {times} times")
    check_at_rest(trial)


def _delivered(trial: Trial, group: str, due: list[str], deadly: set[str], chance: random.Random) -> list[Delivery]:
    """Deliver all of a group's messages, and kill the consumer of each deadly one; return each delivery."""
    consumer = Consumer(trial, group)
    seen: set[str] = set()
    worked: set[str] = set()
    deliveries = []
    try:
        while due:
            message_id = due.pop()
            kills = message_id in deadly
            deadly.discard(message_id)
            # Every second one is killed at work, the others when they may have committed, and were not heard yet.
            holds = kills and len(deadly) % 2 == 0
            consumer.deliver(message_id, HOLD if holds else "")
            said = [consumer.answer()]
            if kills:
                if not holds:
                    time.sleep(chance.choice([0.0, _AT_WORK, 1.1 * _AT_WORK]))
                consumer.close()
                while more := consumer.answer(0):
                    said.append(more)
                consumer = Consumer(trial, group)
            else:
                while said[-1].split()[0] not in ("over", "refused"):
                    said.append(consumer.answer())
            words = [one.split()[0] for one in said]
            if "work" in words:
                worked.add(message_id)
            if "ack" not in words and "refused" not in words:
                due.insert(chance.randrange(len(due) + 1), message_id)  # the broker sends it again
            deliveries.append(Delivery(message_id, words, message_id in seen, message_id in worked))
            seen.add(message_id)
    finally:
        consumer.close()
    return deliveries


def _judge(trial: Trial, group: str, one: Delivery, acks: Counter[str]) -> None:
    trial.tried += 1
    trial.hits[AGAIN] += one.is_again
    if "ack" in one.said:
        acks[f"{group} {one.message_id}"] += 1
        trial.holds("I7", one.has_worked, f"{group} acknowledged {one.message_id}, and its handler had never run")
    elif "refused" not in one.said:
        trial.hits[KILLED] += 1
    trial.holds("I11", ("refused" in one.said) is (POISON in one.message_id), f"{one.message_id}: {one.said}")
