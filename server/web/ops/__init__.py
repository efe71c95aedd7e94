"""The operator's page: what lives in the system, pushed, and what to do about it.

It exists only where ``TRYON_OPS_TOKEN`` is set. :mod:`.access` lets operators in,
:mod:`.board` reads, :mod:`.watch` finds what has changed, :mod:`.viewers` sends it.
"""
