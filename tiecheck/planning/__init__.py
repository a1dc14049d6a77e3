"""Our own device map: one that keeps every tie together within the memory."""
