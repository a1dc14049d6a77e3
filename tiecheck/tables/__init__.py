"""The tie table and the engine tables, read only.

`generate/` makes them and is left out of the wheel.
"""
