"""What somebody asks of a placement: memory, devices, maps; held against a model. No torch."""
