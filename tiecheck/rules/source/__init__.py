"""Rules on Python sources: ties that are wrong, fragile or invisible, seen in the code."""
