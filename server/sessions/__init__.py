"""The use cases: everything that can happen to a session."""
