"""Tables, read only: of ties, engines, releases, structures, messages.

`generate/` makes them and is left out of the wheel.
"""
