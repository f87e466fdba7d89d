"""Real servers for the tests, without Docker and without root: `with postgresql(18) as server: ...`; and a browser."""

from tests.servers.chromium import Browser, chromium
from tests.servers.debian import MissingEngine
from tests.servers.mariadb import mariadb
from tests.servers.mysql import mysql
from tests.servers.pgbouncer import pgbouncer
from tests.servers.postgresql import postgresql, standby
from tests.servers.process import ServerError
from tests.servers.rabbitmq import rabbitmq
from tests.servers.redis import redis
from tests.servers.server import RabbitServer, RedisServer, Server, from_environment

__all__ = [
    "Browser",
    "MissingEngine",
    "RabbitServer",
    "RedisServer",
    "Server",
    "ServerError",
    "chromium",
    "from_environment",
    "mariadb",
    "mysql",
    "pgbouncer",
    "postgresql",
    "rabbitmq",
    "redis",
    "standby",
]
