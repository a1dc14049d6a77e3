"""What PEFT itself refuses, told apart from a fault of a test or of ours."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest


def skip_what_peft_refuses(error: Exception) -> None:
    """Skip where PEFT's own code raised, since then there is no adapter to judge; raise whatever else it was.

    PEFT copies a module that it is to save: what torch or `copy` raise then is its refusal.
    """
    frames = [Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)]
    if "peft" not in next(parts for parts in reversed(frames) if "torch" not in parts and parts[-1] != "copy.py"):
        raise error
    pytest.skip(f"PEFT: {error}")
