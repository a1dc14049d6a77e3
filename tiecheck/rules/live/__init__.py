"""Rules on the live model (TIE3xx)."""
