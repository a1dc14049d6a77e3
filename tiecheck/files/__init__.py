"""Bytes to records, without torch: headers, pickles, configs, comparison, remote stores.

Opens files for everybody else; knows nothing of ties. What is broken, refused or gone raises a `TargetError` of one
sentence that names the file.
"""
