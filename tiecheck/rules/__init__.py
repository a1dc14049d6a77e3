"""The rules: one small class each, with its text and its cases.

Pure: they ask for facts by name, open no file and call no tool.
"""
