"""``tryon chaos``: many people use a running system while things break, and every
promise is checked afterwards.

A client of the product like any other: it knows the protocol, not the server. In the
order in which a run goes::

    plans       who does what and when, from a seed
    people      one person: upload, follow, perhaps cancel, delete, try again; strangers who must see nothing
    following   the four transports, with the reconnect rules of static/tryon.js
    http        requests and streams over one connection each
    records     what everybody saw, one JSON line each
    checker     pure: records in, findings out
    report      findings and figures as a table
    run         the run itself, faults included
"""
