"""The wishes of a placement, read and held against a model: memory, devices, maps. No torch."""
