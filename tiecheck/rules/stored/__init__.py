"""Rules on what is stored against what is declared (TIE1xx)."""
