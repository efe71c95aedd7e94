"""One technology a folder; foreign exceptions are translated here and go no further."""
