"""Ways to have chunks of models judged: one file each, a function that takes chunks and gives what came of each."""
