"""The endpoints of the HTTP API, and the table of its operations.

``operations`` is the table. An upload passes ``submit`` (rate limit, queue limit, and
with a key ``in_flight``), then ``uploads``, which reads the body by ``form`` into
``parts`` and ``params``. ``sessions`` holds the verbs of an owner, ``files`` the target
of signed links, ``health`` the answers to monitoring, ``pages`` those to a browser.
"""
