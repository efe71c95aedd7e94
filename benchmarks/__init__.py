"""What the project's figures come from:

``python -m benchmarks NAME``. Each prints a table and the machine's facts.
"""
