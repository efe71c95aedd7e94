"""Webhooks leave by a small HTTP client that connects to no address it should not."""
