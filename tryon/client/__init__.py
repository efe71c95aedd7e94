"""The Python client: upload a photo, follow its session to the end.

From below: :mod:`~tryon.client.network` is the port to the network,
:mod:`~tryon.client.connection` one connection of one transport that yields what arrives
unread, :mod:`~tryon.client.state` the one cursor, :mod:`~tryon.client.ladder` the
choice of the next transport, :mod:`~tryon.client.following` all of it together.
:mod:`~tryon.client.api` is what users import, :mod:`~tryon.client.sync` the same
without ``await``.
"""
