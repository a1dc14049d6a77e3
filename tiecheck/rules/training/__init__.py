"""Rules on training (TIE7xx)."""
