"""S24: a part of the contract suite as the application's own user of the database; ``make roles`` runs the whole.

That no right is printed which a role can do without is in ``tests/cli/test_privileges.py``.
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.contract.test_expiry import (
    order,
    test_a_joined_call_takes_an_expired_record_over_inside_the_callers_transaction,
    test_a_record_that_has_not_expired_yet_replays,
    test_an_expired_failure_runs_again,
    test_an_expired_key_runs_again_and_replays_its_new_result,
)
from tests.contract.test_replay import (
    test_a_commit_inside_the_function_is_noticed_and_never_run_again_until_forgotten,
    test_a_function_that_raises_leaves_nothing_behind_and_runs_again,
    test_a_second_call_replays_the_result_and_runs_nothing,
    test_the_same_key_with_another_payload_is_refused_and_changes_nothing,
)
from tests.support.backends import BACKENDS, db_of
from tests.support.roles import HiredDatabase

__all__ = [
    "order",
    "test_a_commit_inside_the_function_is_noticed_and_never_run_again_until_forgotten",
    "test_a_function_that_raises_leaves_nothing_behind_and_runs_again",
    "test_a_joined_call_takes_an_expired_record_over_inside_the_callers_transaction",
    "test_a_record_that_has_not_expired_yet_replays",
    "test_a_second_call_replays_the_result_and_runs_nothing",
    "test_an_expired_failure_runs_again",
    "test_an_expired_key_runs_again_and_replays_its_new_result",
    "test_the_same_key_with_another_payload_is_refused_and_changes_nothing",
]

KINDS = ("postgresql18", "postgresql18-async", "mariadb", "mysql")


@pytest.fixture(params=[name for name in KINDS if name in BACKENDS])
def db(request: pytest.FixtureRequest) -> HiredDatabase:
    """A database of each kind, as the application's user; in place of the contract suite's own."""
    db = db_of(request.param, hired=True)
    assert isinstance(db, HiredDatabase)
    return db


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM idemtable",
        "DROP TABLE idemtable",
        "ALTER TABLE idemtable ADD COLUMN x integer",
        "CREATE TABLE mine (id integer)",
        "UPDATE idemtable_version SET version_num = '0099'",
        "DELETE FROM effect",
    ],
)
def test_the_user_of_these_tests_may_do_nothing_else(db: HiredDatabase, statement: str) -> None:
    with db.session() as mine, pytest.raises(sa.exc.DBAPIError, match=r"denied|must be owner"):
        mine.run(lambda session: session.execute(sa.text(statement)))
    with db.deleting(), db.session() as mine:
        mine.run(lambda session: session.execute(sa.text("DELETE FROM idemtable")))
