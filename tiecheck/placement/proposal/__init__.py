"""A device map of our own that keeps every tie together within the memory."""
