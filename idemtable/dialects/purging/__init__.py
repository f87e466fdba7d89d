"""How a purge gets through a table: what one batch did, and where the next one goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Swept:
    """What one batch did."""

    deleted: int
    rest: Any
    """Where the next batch goes on, as the database's own class has written it; ``None`` when this was the last one."""
