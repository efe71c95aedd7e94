"""The source of the project's figures: ``python -m benchmarks NAME``.

Each benchmark prints the facts of the machine and a table.
"""
