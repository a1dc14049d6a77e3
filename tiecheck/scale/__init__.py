"""The scale of a tied matrix: what it does to the logits of an untrained model.

May import the trace, the live module and the files.
"""
