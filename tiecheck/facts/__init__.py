"""The facts of a target, each made once, when a rule first asks for it.

The only place that knows which collector makes which fact.
"""
