"""lightning (2.6.6): `pytorch/utilities/parameter_tying.py` groups all names by `Parameter`; no buffers, no memory."""

from __future__ import annotations

from tiecheck.peers.views.tool_functions import ToolAnswer, ToolFunction, WalkedModule, one_object, ordered_groups


def _run(sight: WalkedModule) -> ToolAnswer:
    sight.runnable()
    from lightning.pytorch.utilities import find_shared_parameters

    return ToolAnswer(ordered_groups(find_shared_parameters(sight.module)))


PEERS = (ToolFunction("lightning", "find_shared_parameters", "2.6", one_object, _run),)
