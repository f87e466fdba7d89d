"""What befalls callers and their server in a round of the soak: one thing after the other, or several at once."""

from __future__ import annotations

import os
import signal
import time
from typing import Final

from idemtable.upgrade import upgrade
from tests.reliability.kills import CLIENT_KILLS, SERVER_KILLS, Workers
from tests.reliability.trial import Trial
from tests.servers import Server
from tests.support.database import Database
from tests.support.forked import Forked
from tests.support.proxy import Manner, Proxy, Way

CUTS = "lines cut"
STOPPED = "callers stopped with SIGSTOP"
INSIDE = "of them inside a call"
UPGRADES = "upgrades beside callers"
EVERY: Final = 60.0
"""Seconds from one caller that is stopped to the next."""


class Faults:
    """Kill, cut and stop. What is stopped are those that are not killed: whoever is killed in its stop proves no more."""

    def __init__(self, trial: Trial, server: Server, db: Database, proxy: Proxy, group: Workers) -> None:
        self._trial, self._server, self._db, self._proxy, self._group = trial, server, db, proxy, group
        for what in (SERVER_KILLS, CLIENT_KILLS, CUTS, STOPPED, INSIDE, UPGRADES):
            trial.hits[what] += 0
        self._stopped: Forked | None = None
        # The first one soon: a short round is to have one too.
        self._next = time.monotonic() + trial.chance.uniform(5, 15)

    def step(self) -> None:
        """Kill a caller; now and then cut a line, kill the server, stop a caller or let it go on."""
        hits, chance = self._trial.hits, self._trial.chance
        if chance.random() < 0.3:
            self._proxy.cut_at(chance.choice(list(Way)), chance.randint(1, 30), chance.choice(list(Manner)))
        self._stop_or_continue()
        hits[CLIENT_KILLS] += self._group.kill_one(chance.uniform(0.5, 1.5))
        self._group.start()
        if chance.random() < 0.2:
            self._server.kill()
            self._server.start()
            hits[SERVER_KILLS] += 1
            self._db.engine.dispose()
            self._db.admin.dispose()
            ran = upgrade(self._db.engine)  # as every program does that is started again
            self._trial.holds("I11", ran == (), f"an upgrade with nothing to do ran {ran}")
            hits[UPGRADES] += 1

    def end(self) -> None:
        """Let everybody go on."""
        if self._stopped is not None:
            os.kill(self._stopped.pid, signal.SIGCONT)
            self._stopped = None
        self._proxy.let_pass()
        self._trial.hits[CUTS] += self._proxy.hits

    def _stop_or_continue(self) -> None:
        now, chance = time.monotonic(), self._trial.chance
        if now < self._next:
            return
        if self._stopped is not None:
            os.kill(self._stopped.pid, signal.SIGCONT)
            self._stopped, self._next = None, now + EVERY
            return
        self._stopped = chance.choice(self._group.spared)
        os.kill(self._stopped.pid, signal.SIGSTOP)
        # Shorter than anybody waits for a key that it may hold.
        self._next = now + chance.uniform(2, 10)
        self._trial.hits[STOPPED] += 1
        self._trial.hits[INSIDE] += self._group.is_calling(self._stopped)
