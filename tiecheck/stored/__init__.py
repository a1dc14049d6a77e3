"""Ties in files: groups, guesses, layouts, optimizer states, strict loads.

Reads by `files` and the tie table; no torch, no judgement.
"""
