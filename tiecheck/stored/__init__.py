"""Ties in files: groups, guesses, layouts, optimizer states, strict loads.

Reads by `files`, whose errors it passes on, and the tie table; no torch, no judgement.
"""
