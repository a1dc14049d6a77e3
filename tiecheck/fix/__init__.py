"""Edits carried out: what changes in which file, the new files beside the old, judged before they take their place.

May use the engine and all below it; loads no tensor and needs no torch, but for pickles. What is refused, or cannot be
written, raises a `TargetError`.
"""
