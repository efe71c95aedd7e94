"""Every fault that the product promises to outlive, as a row that can be run.

Rows run in full, or scaled down by the tests. A row starts a cluster of real processes
under a steady load, breaks one thing, and holds the sights of clients against the audit
trail: the fault matrix of ``docs/reliability.md``.
"""
