"""The library's pytest plugin, in the suites that tests run."""

from __future__ import annotations

from importlib.metadata import entry_points

PLUGIN = [] if entry_points(group="pytest11", name="idemtable") else ["-p", "idemtable.testing.plugin"]
"""Arguments of pytest: none where the checkout was installed, which is how a user has it."""
