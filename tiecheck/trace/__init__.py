"""One forward pass, watched.

May import the live module; knows torch.
"""
