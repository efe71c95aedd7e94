"""Pure rules about a session: no I/O, no framework, no clock of its own.

``session`` is one session as a value, ``access`` decides what a caller may see of it,
``tokens`` are credentials and signatures, ``images`` says which photos are accepted,
``queue_place`` is the place of a waiting session, ``bus_message`` the envelope of
frames on their way through Redis, ``disturbances`` when a lapsed lease proves nothing.
States, frames and errors stand in ``tryon.protocol``.
"""
