"""lightning (2.6.6): `pytorch/utilities/parameter_tying.py` groups all names by `Parameter`; no buffers, no memory."""

from __future__ import annotations

from tiecheck.peers.views.sight import Peer, Seen, Sight, one_object, ordered


def _run(sight: Sight) -> Seen:
    sight.runnable()
    from lightning.pytorch.utilities import find_shared_parameters

    return Seen(ordered(find_shared_parameters(sight.module)))


PEERS = (Peer("lightning", "find_shared_parameters", "2.6", one_object, _run),)
"""Its functions."""
