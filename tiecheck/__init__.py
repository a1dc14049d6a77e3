"""tiecheck."""
