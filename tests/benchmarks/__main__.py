"""`make bench`: what a claim costs, on every database, as ratios within one run."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import sqlalchemy as sa

from tests.benchmarks import cpu, web
from tests.benchmarks.harness import compare, show
from tests.benchmarks.transactions import prepare, variants
from tests.servers import mariadb, postgresql


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=50_000, help="records in the table before the run")
    parser.add_argument("--no-web", action="store_true", help="leave the requests over HTTP out")
    parser.add_argument("databases", nargs="*", default=["postgresql", "mariadb", "sqlite"])
    options = parser.parse_args()
    packages = ("SQLAlchemy", "psycopg", "PyMySQL")
    print(f"Python {platform.python_version()},", ", ".join(f"{name} {version(name)}" for name in packages))
    print("ratio: throughput against 'claim by hand in Core'; spread: over 7 blocks of the same run")
    failed = False
    with ExitStack() as stack:
        for name in options.databases:
            if name == "sqlite":
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                url = f"sqlite:///{Path(folder) / 'bench.db'}"
            else:
                server = stack.enter_context((postgresql if name == "postgresql" else mariadb)(fast=False))
                server.create_database("bench")
                url = server.url("bench")
            engine = sa.create_engine(url)
            if name == "sqlite":
                with engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            idem = prepare(engine, options.rows)
            rows = compare(variants(engine, idem), options.rounds, "claim by hand in Core")
            show(name, rows)
            failed |= rows[-1].ratio < 1.0
            engine.dispose()
            if name == "postgresql" and not options.no_web:
                with web.requests(url) as kinds:
                    timed = {row.name: row for row in compare(kinds, options.rounds // 3, "/sync")}
                for colour in ("/sync", "/async"):
                    plain, protected = timed[colour], timed[f"{colour}-protected"]
                    times = protected.median / plain.median
                    print(
                        f"  a request under uvicorn, {colour[1:]}: p50 {plain.median:.0f} us with its own transaction, "
                        f"{protected.median:.0f} us protected: {times:.2f} times"
                    )
                    failed |= times > 1.35
    own = cpu.measure()
    print(f"\nThe library's own CPU for one call, without its statements: {own:.0f} us")
    return 1 if failed or own > 60 else 0


if __name__ == "__main__":
    sys.exit(main())
