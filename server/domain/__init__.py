"""What a session is, decided without I/O: no await, no framework, no clock of its own.

``states`` says what may follow what, ``session`` is one session as a value and as
clients see it, ``events`` are the frames and bus messages, ``tokens`` are credentials
and signatures, ``images`` says which photos are accepted, ``errors`` is the one tree of
everything that can be refused.
"""
