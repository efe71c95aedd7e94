"""The rules that follow from the clock alone: lost leases, deadlines, expiry."""
