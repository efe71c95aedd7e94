"""Pure rules about a session: no I/O, no framework, no clock of its own.

``session`` is one session as a value, ``access`` decides what a caller may see of it,
``tokens`` are credentials and signatures, ``images`` says which photos are accepted,
``queue_place`` is the place of a waiting session, ``frames`` makes frames of events,
``bus_message`` carries frames through Redis, ``disturbances`` says when a lapsed lease
proves nothing. States, structs of frames and errors stand in ``tryon.protocol``.
"""
