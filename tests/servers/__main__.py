"""`python -m tests.servers postgresql mariadb mysql redis rabbitmq`: runs them until Ctrl-C or SIGTERM, one URL a line."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from tests import servers

ENGINES: dict[str, Callable[[], servers.Server | servers.RedisServer | servers.RabbitServer]] = {
    "postgresql": servers.postgresql,
    "postgresql16": partial(servers.postgresql, 16),
    "postgresql18": partial(servers.postgresql, 18),
    "mariadb": servers.mariadb,
    "mariadb11.8": partial(servers.mariadb, "11.8"),
    "mysql": servers.mysql,
    "redis": servers.redis,
    "rabbitmq": servers.rabbitmq,
}
DATABASE = "idemtable"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("engines", nargs="+", choices=ENGINES, metavar=f"{{{','.join(ENGINES)}}}")
    chosen = parser.parse_args().engines
    # Set both: a shell starts background jobs with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    with ExitStack() as stack:
        for name in chosen:
            server = ENGINES[name]()
            stack.callback(server.stop)
            if not isinstance(server, servers.Server):
                print(server.url(), flush=True)
            else:
                server.create_database(DATABASE)
                print(server.url(DATABASE), flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
