"""What each loader makes of a checkpoint: one file a loader."""
