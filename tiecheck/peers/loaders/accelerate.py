"""accelerate, which plans for a live module and asks no checkpoint: here so that `--for` can name its versions.

What each of its three algorithms sees is in `tiecheck/peers/views/accelerate.py`; rules on the live module say which of
them miss a tie (0.9.0 to 1.15.0, executed from the wheels).
"""

from tiecheck.peers.loaders.situation import Decision, Loader, Situation


def _nothing(_: Situation) -> Decision | None:
    return None


LOADERS = (
    Loader("accelerate", "0.9-0.17", (0, 9), (0, 18), "run", _nothing),
    Loader("accelerate", "0.18-0.33", (0, 18), (0, 34), "run", _nothing),
    Loader("accelerate", "0.34-", (0, 34), None, "run", _nothing),
)
