"""One of the processes of `tests.benchmarks.before`: first executions, as many as it is told at a time."""

from __future__ import annotations

import sys
from itertools import count
from time import perf_counter, process_time

import sqlalchemy as sa
from sqlalchemy.orm import Session

import idemtable
from idemtable import IdemTable
from tests.benchmarks.work import business, new_run, numbers

WARM = 300


def work(url: str, folder: str, first: int) -> None:
    """Answer each line of stdin, a number of calls, by the microseconds of one and what it took of the processor.

    Args:
        url: of the database.
        folder: that the library must come from.
        first: number of an order; no other process may come that far.
    """
    if not str(idemtable.__file__).startswith(folder):
        raise SystemExit(f"the library came from {idemtable.__file__}, and not from {folder}")
    engine, run, keys = sa.create_engine(url), new_run(), count()

    @IdemTable(engine).transactional("bench", key="key")
    def order(session: Session, key: str, number: int) -> dict[str, int]:
        return business(session, number)

    def calls(times: int) -> None:
        for _ in range(times):
            order(f"{run}-{next(keys)}", first + next(numbers))

    calls(WARM)
    print("ready", flush=True)
    for line in sys.stdin:
        times = int(line)
        wall, cpu = perf_counter(), process_time()
        calls(times)
        print((perf_counter() - wall) / times * 1e6, (process_time() - cpu) / times * 1e6, flush=True)


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]))
