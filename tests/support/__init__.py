"""What the tests share."""

PATIENCE = 60.0
"""Seconds after which a call that should have come back is a failure."""
