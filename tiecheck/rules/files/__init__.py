"""Rules on the files of a checkpoint against one another (TIE2xx)."""
