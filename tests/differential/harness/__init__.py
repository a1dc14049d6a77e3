"""Model directories drawn at random, held against what transformers makes of them; `../run.py` is the door."""
