"""Remote models: headers, index and config by byte ranges, never the weights. Imported for an address only."""
