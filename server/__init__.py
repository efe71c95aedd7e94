"""TryOn Push: upload a photo, and see every change of its session on the screen.

Where to read, in the order in which a photo travels::

    web.api.uploads         streams the body under its cap
    adapters.imaging        judges and cleans the photo
    sessions                the use cases, a part per noun: submissions, claims …
    (worker)                claims the session; a processor makes the picture
    adapters                one technology per folder: database, files, Redis, imaging
    web.push.hub            one Redis reader per process follows all sessions
    web.transports          WebSocket, event stream or long poll
    reconciler              the clock alone: lost leases, deadlines, expiry

:mod:`server.services` builds these parts, once per process.

Imports point one way: ``cli`` > ``up | chaos`` > ``web | worker`` > ``services`` >
``reconciler`` > ``sessions`` > ``adapters`` > ``telemetry`` > ``config | domain |
system`` > ``tryon``; a test holds that.
"""

__version__ = "0.1.0"
