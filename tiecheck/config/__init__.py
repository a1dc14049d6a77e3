"""Options, the configuration file, and contracts.

Knows words, not rules: what names a rule or a loader is checked by the engine.
"""
