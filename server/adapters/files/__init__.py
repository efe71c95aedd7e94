"""Where photos and results are stored."""
