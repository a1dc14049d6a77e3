"""What somebody asks of a placement: memory, devices, strategies and maps, read and held against a model."""
