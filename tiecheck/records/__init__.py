"""Every frozen record, with the words of the design.

Imports nothing of ours; plain data that can be replayed.
"""
