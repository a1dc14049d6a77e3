"""Python files to records, by `ast`: what classes build, tie, copy and initialise, and in which order.

Reads text and never imports it; knows nothing of rules. A file that cannot be read or parsed, or is too large, raises
a `TargetError`.
"""
