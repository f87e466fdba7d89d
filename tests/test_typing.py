"""Type checkers know the API: they read ``tests/typing/api.py`` and complain about nothing but what is marked there.

Of the examples mypy has nothing to say.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = [f"docs/examples/{name}" for name in ("payments.py", "shop", "shop_flask.py")]
CHECKERS = {
    # The examples come along: to read SQLAlchemy takes mypy longer than all that is written here.
    "mypy": ["mypy", "--strict", "--warn-unused-ignores", "tests/typing/api.py", *EXAMPLES],
    "pyright": ["pyright", "--pythonpath", sys.executable, "-p", "tests/typing"],
}


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.timeout(300)  # pyright brings its own program when it runs for the first time on a machine
def test_a_checker_knows_the_call_without_the_session_refuses_wrong_ones_and_takes_the_examples(
    checker: str,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
