"""Sessions and their audit trail in SQLite or PostgreSQL.

Start at :mod:`~server.adapters.database.database`, which builds the parts; the rules of
writing stand at the top of :mod:`~server.adapters.database.writing`, those of catching
up in :mod:`~server.adapters.database.feed`.
"""
