"""What happens to sessions by the clock alone: lost leases, deadlines, expiry."""
