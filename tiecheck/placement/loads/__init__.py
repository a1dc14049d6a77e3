"""The outcome of a load for tie groups, under a device map, told without loading."""
