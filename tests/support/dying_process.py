"""A process that redeems, writes, says so, and waits to be killed."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from idemtable import IdemTable
from idemtable.tokens import RedisTokenStore
from tests.support.database import effect


def run(url: str, token: str, redis: str = "") -> None:
    store = None
    if redis:
        from redis import Redis

        store = RedisTokenStore(Redis.from_url(redis))
    tokens = IdemTable(sa.create_engine(url)).tokens("checkout", ttl=timedelta(minutes=30), store=store)

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> int:
        made = effect(session, "dead")
        print("inside", flush=True)
        sys.stdin.read()
        return made

    checkout(token)
