"""The stand-in driver, for the tests of the meters."""

from nvml_fixtures import driver, stub  # noqa: F401
