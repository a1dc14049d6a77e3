"""Bytes to records, without torch: headers, pickles, configs, comparison, remote stores.

Opens files for everybody else; knows nothing of ties.
"""
