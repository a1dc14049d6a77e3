"""Rules on device maps (TIE5xx)."""
