"""``python -m faults soak``: ten thousand sessions while everything breaks.

A whole cluster (two web processes on one port, two workers, Valkey with its append-only
file, the database) is broken every few seconds, in an order drawn from a seed, while
clients come at a steady rate from many loopback addresses (:mod:`server.chaos`).
Sessions live for a short time only, so that their expiry is a part of it; at the end
nothing may be left, and every promise is checked. Exit status 1 if the checker finds
anything.
"""
