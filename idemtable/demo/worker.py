"""One worker process: a client that sends its share of a recording until each request is answered.

It takes orders on stdin (``day 2``, or ``day 2 hold`` to stop inside a payment and be killed there) and answers on
stdout (``done``, or ``holding KEY``). Every answer it gets goes to a file of its own: its death harms nobody else's.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ..errors import FingerprintMismatchError, InProgressError
from . import recording
from .business import GatewayDown, payments

URL = "IDEMTABLE_DEMO_URL"
"""In the environment, where ``ps`` does not show it."""


class Worker:
    """The share of one worker: every n-th request, so that neighbours in the file are sent at the same time."""

    def __init__(self, folder: Path, number: int, workers: int, protected: bool) -> None:
        requests = recording.read(folder / "requests.jsonl")
        self._share = list(enumerate(requests))[number::workers]
        self._answers = os.open(folder / f"answers-{number}.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        engine = sa.create_engine(os.environ[URL])
        self._pay = payments(engine, protected=protected, before_commit=self._before_commit)
        self._asleep: set[str] = set()
        self._hold: set[str] = set()

    def day(self, day: int, hold: bool) -> None:
        """Send the requests of a day, the next one when the one before is answered."""
        share = [(line, request) for line, request in self._share if request.day == day]
        # Not the last one, or nobody would be at work while this worker is dead.
        hold_from = len(share) // 3 if hold else len(share)
        for position, (line, request) in enumerate(share):
            if position >= hold_from:
                self._hold = {request.key}
            if request.gateway == "down":
                self._asleep.add(request.key)
            while not self._send(line, request):
                pass

    def _send(self, line: int, request: recording.Request) -> bool:
        """Send a request once, write the answer down, and say whether it is the last word."""
        began = time.monotonic()
        try:
            outcome = self._pay[request.day](key=request.key, account=request.account, amount=request.amount)
        except InProgressError:
            self._write(line, "in progress", began)
            # As a client does that was told to come again: all at once they would find it in progress once more.
            time.sleep(random.uniform(0.02, 0.1))  # noqa: S311 - the jitter guards no secret
            return False
        except GatewayDown:
            self._write(line, "failed", began)
            return False
        except FingerprintMismatchError:
            self._write(line, "refused", began)
            return True
        self._write(line, "replayed" if outcome.replayed else "paid", began, receipt=asdict(outcome.value))
        return True

    def _write(self, line: int, answer: str, began: float, **facts: Any) -> None:
        text = json.dumps({"line": line, "answer": answer, "seconds": round(time.monotonic() - began, 4), **facts})
        os.write(self._answers, f"{text}\n".encode())

    def _before_commit(self, key: str) -> None:
        if key in self._hold:
            print(f"holding {key}", flush=True)
            sys.stdin.readline()  # that never comes
        if key in self._asleep:
            self._asleep.discard(key)
            raise GatewayDown


def main(folder: str, number: str, workers: str, protected: str) -> None:
    """Do as told until stdin ends, which it also does when the one who gives the orders is gone."""
    worker = Worker(Path(folder), int(number), int(workers), protected == "protected")
    print("ready", flush=True)
    for order in sys.stdin:
        words = order.split()
        worker.day(int(words[1]), "hold" in words)
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
