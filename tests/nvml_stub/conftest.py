"""The stand-in driver, for its own tests."""

from nvml_fixtures import driver, stub  # noqa: F401
