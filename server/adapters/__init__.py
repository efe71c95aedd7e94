"""One technology per file; foreign exceptions are translated here and go no further."""
