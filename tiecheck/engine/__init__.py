"""From a target to its report: facts on demand, rules, one entry a group.

The only orchestrator: it alone knows targets, facts and rules together.
"""
