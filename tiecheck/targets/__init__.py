"""The words of the user, as a Target.

Parses only: reads no weight and runs no code.
"""
