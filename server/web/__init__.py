"""The only folder that knows HTTP.

A request passes ``serving`` (the server, its HTTP and handshake, the middleware) and
reaches the endpoint of its row in ``api.operations``. ``transports`` are the ways to
follow a session; ``push`` stands between Redis and the clients that follow. ``common``
holds credentials, problems and answers, ``docs`` makes the API's documents of the rows.
``app`` builds all of it.
"""
