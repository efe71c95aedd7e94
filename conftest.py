"""Loads the hooks and fixtures of `testkit` for tests, faults and benchmarks."""

pytest_plugins = ["testkit.plugin", "testkit.fixtures"]
