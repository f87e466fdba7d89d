"""One-time tokens: keys that the server issues, the client sends back once, and one transaction consumes.

::

    tokens = idem.tokens("checkout", ttl=timedelta(minutes=30))
    token = tokens.issue(subject="user:7")

    @tokens.transactional(token="token", subject="user_id")
    def checkout(session: Session, token: str, user_id: str, cart: Cart) -> Receipt: ...

A token is a row of the table of keys, and redeeming it is one conditional UPDATE in the business's own transaction: a
rollback gives it back, and of any number of simultaneous redemptions one runs. The row holds a hash of the token, never
the token. `RedisTokenStore` keeps tokens in Redis instead and says what that loses.

A token is no CSRF token unless it is issued for a subject that the attacker's session does not have. It does not belong
into a URL, which ends in logs and in the Referer header.
"""

from __future__ import annotations

from .redis import RedisTokenStore
from .verbs import Tokens
from .verbs_async import AsyncTokens

__all__ = ["AsyncTokens", "RedisTokenStore", "Tokens"]
