"""Around the code of a user: the gate before a load, and the look at what came of it.

Hands its results on as records; may import the engine and all below it.
"""
