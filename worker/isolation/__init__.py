"""Processors run in child processes: one that crashes ends its own session only."""
