"""Verification of outputs: type, size, private metadata, marks of provenance."""
