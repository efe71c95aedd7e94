"""The only folder that knows HTTP.

``app`` lists the routes; ``uploads``, ``status`` and ``sockets`` answer them; ``hub``
stands between Redis and the clients that follow; ``problems`` turns errors into
answers; ``openapi`` describes all of it.
"""
