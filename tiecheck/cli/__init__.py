"""The command line: thin doors that parse, make one call, render and exit.

May import everything below; holds no judgement of its own. `main` is the group, each command a module.
"""
