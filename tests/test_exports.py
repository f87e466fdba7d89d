"""What users may import, and what importing costs them."""

from __future__ import annotations

import subprocess
import sys

import idemtable
from idemtable import errors, testing

DESIGNED = {
    # the table, bound; the decorator as a plain import
    "IdemTable", "AsyncIdemTable", "transactional", "configure_sqlite", "metadata", "multi_host",
    # words
    "ALL", "Flag", "Outcome", "PurgeReport", "Record", "Stats", "Status", "outcome_of",
    # the tree of errors
    "IdempotencyError", "KeyRejectedError", "MissingKeyError", "InvalidKeyError", "MissingTenantError",
    "InProgressError", "FingerprintMismatchError", "ResultError", "ResultNotSerializableError", "ResultTooLargeError",
    "ResultUnreadableError", "TransactionError", "LostClaimError", "RetryTransactionError", "SessionNotUsableError",
    "ReentrantCallError", "SchemaError", "TokenError", "UnknownTokenError", "ExpiredTokenError", "SpentTokenError",
    "GuardError", "StaleVersionError", "RowLockedError", "IllegalTransitionError",
}  # fmt: skip


def python(code: str, *options: str) -> str:
    """Run code in a fresh interpreter; warnings are errors there too."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_names_are_those_of_the_design_and_all_can_be_imported() -> None:
    assert set(idemtable.__all__) == DESIGNED
    assert len(idemtable.__all__) == len(DESIGNED)
    for name in idemtable.__all__:
        assert getattr(idemtable, name) is not None
    assert sorted(idemtable.__all__) == sorted(idemtable.__all__, key=str)


def test_every_error_is_at_the_top_and_the_same_class_in_its_module() -> None:
    assert set(errors.__all__) <= set(idemtable.__all__)
    for name in errors.__all__:
        assert getattr(errors, name) is getattr(idemtable, name)


def test_a_star_import_of_each_brings_exactly_what_is_listed() -> None:
    code = (
        "namespace = {{}}; exec('from {module} import *', namespace); import {module} as module\n"
        "assert set(namespace) - {{'__builtins__'}} == set(module.__all__); print(len(module.__all__))"
    )
    for module, names in (
        ("idemtable", idemtable.__all__),
        ("idemtable.errors", errors.__all__),
        ("idemtable.testing", testing.__all__),
    ):
        assert python(code.format(module=module)) == str(len(names))


def test_sync_use_needs_no_greenlet_no_async_part_of_sqlalchemy_and_no_pytest() -> None:
    code = """
import sys
sys.modules["greenlet"] = None
sys.modules["sqlalchemy.ext.asyncio"] = None
sys.modules["pytest"] = None
from sqlalchemy import create_engine, StaticPool
from sqlalchemy.orm import Session
from idemtable import IdemTable
import idemtable.testing
engine = create_engine("sqlite://", poolclass=StaticPool)
idem = IdemTable(engine)
idem.create_all()
@idem.transactional("order", key="key")
def order(session, key):
    return 7
assert order("k") == 7 and order.outcome("k").replayed
with Session(engine) as session:
    assert order.join(session, "joined") == 7
    session.commit()
with idem.transaction("pay", "k") as claim:
    claim.result = 1
idem.purge()
print(idem.stats().rows)
engine.dispose()
"""
    assert python(code) == "3"


def test_async_use_without_greenlet_says_what_to_install() -> None:
    code = """
import sys
sys.modules["greenlet"] = None
sys.modules["sqlalchemy.ext.asyncio"] = None
from idemtable import AsyncIdemTable, doctor, upgrade
url = "sqlite+aiosqlite:///:memory:"
for ask in (lambda: AsyncIdemTable(object()), lambda: upgrade.upgrade(url), lambda: doctor.examine(url)):
    try:
        ask()
    except ImportError as error:
        print(error)
"""
    assert python(code).count('pip install "idemtable[asyncio]"') == 3


def test_importing_loads_neither_alembic_nor_click_nor_pydantic_nor_a_driver() -> None:
    code = """
import sys
import idemtable
heavy = ("alembic", "click", "pydantic", "greenlet", "psycopg", "pymysql", "asyncpg", "aiosqlite", "asyncmy", "pytest")
print(sorted(name for name in heavy if name in sys.modules))
"""
    assert python(code) == "[]"


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    from importlib.resources import files

    assert files("idemtable").joinpath("py.typed").is_file()
