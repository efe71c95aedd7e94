"""The command line: ``tryon`` and ``python -m server``."""
