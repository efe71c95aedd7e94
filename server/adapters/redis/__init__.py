"""Redis or Valkey: bus, queue, limits."""
