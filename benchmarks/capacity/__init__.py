"""A capacity model: what waiting clients take, and which part is full first.

Pure: measured costs, assumptions and prices go in, quantities come out.
``python -m benchmarks.capacity`` prints the tables of docs/scaling.md.
"""
