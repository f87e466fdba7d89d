"""A process that makes one call and stays in the middle of it, to be killed there: for a database that is a file.

It says ``there`` on stdout at the point that it was told, and waits. Whoever started it kills it, or closes its stdin.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..claim import steps
from ..claim.steps import Moment, Step
from ..table import IdemTable
from .ground import SCOPE, Ground

TOLD: Final = "IDEMTABLE_VERIFY_VICTIM"
"""In the environment, where ``ps`` does not show it: what it is to do, as JSON."""


def told(ground: Ground, connect_args: Any, key: str, effect: UUID, step: Step) -> dict[str, str]:
    """Return the environment that tells a process what to do."""
    facts = {
        "url": ground.engine.url.render_as_string(hide_password=False),
        "connect_args": dict(connect_args),
        "table": ground.table,
        "schema": ground.schema,
        "key": key,
        "effect": effect.hex,
        "step": step.value,
    }
    return {**os.environ, TOLD: json.dumps(facts)}


def main() -> None:
    """Make the call."""
    facts = json.loads(os.environ[TOLD])
    names = {"table": facts["table"], "schema": facts["schema"]}
    url, arguments = sa.make_url(facts["url"]), facts["connect_args"]
    ground, effect = Ground(url, arguments, **names), UUID(hex=facts["effect"])

    def takes_effect(session: Session, key: str) -> str:
        ground.write(session, effect)
        return effect.hex

    def heard(moment: Moment) -> None:
        if moment.step.value == facts["step"]:
            print("there", flush=True)
            sys.stdin.read()
            os._exit(1)  # nothing more is done, not even undone

    idem = IdemTable(sa.create_engine(url, connect_args=arguments), **names)
    call = idem.transactional(SCOPE, key="key", payload=None, share_scope=True)(takes_effect)
    with steps.listening(heard):
        call(facts["key"])


if __name__ == "__main__":
    main()
