"""Processes and the operating system."""
