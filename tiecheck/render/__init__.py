"""Reports for people and machines: one file a format, and the JSON schema.

Reads records and rule texts alone; judges nothing.
"""
