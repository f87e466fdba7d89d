"""How long a session waits for a lock by itself: what sets it to another value, what shows it, and that value."""

from __future__ import annotations

TIMEOUTS = {
    "postgresql": ("SET LOCAL lock_timeout = '7654ms'", "SHOW lock_timeout", "7654ms"),
    "mariadb": ("SET SESSION innodb_lock_wait_timeout = 7", "SELECT @@innodb_lock_wait_timeout", 7),
    "mysql": ("SET SESSION innodb_lock_wait_timeout = 7", "SELECT @@innodb_lock_wait_timeout", 7),
    "sqlite": ("PRAGMA busy_timeout = 7654", "PRAGMA busy_timeout", 7654),
}
