"""What tiecheck says of real classes and real key lists, held against what transformers 5 and 4.57 load."""
