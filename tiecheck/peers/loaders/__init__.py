"""Outcomes of a checkpoint in each loader: one file a loader."""
