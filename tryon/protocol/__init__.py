"""``tryon.v1`` as data, one table a module.

``states`` is the table of transitions, ``frames`` and ``views`` are the JSON that is
sent, ``errors`` the tree of refusals, ``close_codes`` what a closed socket means,
``paths`` the URLs, ``credentials`` how a client shows its token, ``backoff`` the
numbers of every client. The server, the clients and the documentation read these
tables; nothing here does I/O or imports an HTTP or WebSocket library.
"""
