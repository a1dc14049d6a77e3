"""Files of `torch.save`, read without torch and without running anything."""
