"""The Python door: the check before a load under a device map, and the look at what was loaded."""
