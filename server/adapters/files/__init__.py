"""The storage of photos and results."""
