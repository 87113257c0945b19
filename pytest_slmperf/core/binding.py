"""Where a test function keeps the sweep that it is bound to: a module of its own, for it is asked of every test."""

BINDING = "__slmperf_binding__"
"""Attribute by which a test function carries its sweep to the plugin: a suite's import needs no pytest."""
