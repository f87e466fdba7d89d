"""Experiments that take minutes: `make reliability`."""
