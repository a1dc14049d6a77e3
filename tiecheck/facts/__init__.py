"""The facts of a target by name: functions marked `@fact`, each called once, when a rule or a fact first wants it.

May use every room below; the only one that knows which reader makes which fact.
"""
