"""Sessions and their audit trail in SQLite or PostgreSQL."""
