"""What the user typed, as a Target.

Parses only: reads no weight and runs no code.
"""
