"""Hostile inputs by the million that must do nothing: ``python -m faults hostile``.

:mod:`.photos` hands damaged files to real image processes, :mod:`.strangers` sends
damaged files, forms and requests to a real server, :mod:`.slow` holds connections.
:mod:`.verdict` counts what went wrong. Files come from :mod:`testkit.mutations`: a
finding is repeated by its seed and its number.
"""
