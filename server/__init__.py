"""TryOn Push: upload a photo, get a session at once, and see every change of it pushed
to the screen until it ends.

Where to read, in the order in which a photo travels::

    web.uploads       streams the body under its cap
    domain.images     judges the picture                       domain: pure rules, no I/O
    sessions          the use cases: submit, begin, report, complete, fail, cancel, erase
    reconciler        what happens by the clock alone: lost leases, deadlines, expiry
    adapters          one technology per file: database, files, Redis, queue
    (worker)          the arq worker; a processor makes the picture
    web.hub           one Redis reader per process follows all sessions
    web.sockets       the person's screen

Imports point one way: ``cli, up`` > ``web | worker`` > ``services`` > ``reconciler`` >
``sessions`` > ``adapters`` > ``telemetry`` > ``domain``; a test holds that.
"""

__version__ = "0.1.0"
