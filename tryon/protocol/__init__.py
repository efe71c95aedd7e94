"""``tryon.v1`` as data: states, frames, views, errors, close codes, paths and back-off,
one table each.

The server, the clients and the documentation read these tables; nothing here does any
I/O.
"""
