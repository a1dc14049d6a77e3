"""The pytest plugin's place. Every pytest run of an environment imports it, so it imports nothing.

The entry point is taken now, so that no other package can take the name; the plugin's own surface
(fixture, marker, options) comes with its issue. `tiecheck.testing` works in any test already.
"""
