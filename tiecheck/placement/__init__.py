"""Device maps: what is asked, what the planners do, what a load makes of it, and a map that works.

May import peers and what is below; imported only where a placement was asked for.
"""
