"""``tryon chaos``: many clients use a running system while things break.

Every promise is checked afterwards. It is a client of the product like any other: it
knows the protocol, not the server. In the order in which a run goes::

    plans       who does what and when, from a seed
    people      one person: upload, follow, perhaps cancel, delete, retry; and strangers
    following   one screen over one transport, which reconnects as static/tryon.js does
    http        the network: source addresses, and connections that can be broken
    records     every request, frame and answer, one JSON line each
    rules       the promises of the protocol, written down once more
    checker     pure: records in, findings out; in it facts, screens, answers, verdict
    report      findings and figures as a table
    run         the run itself, faults included
"""
