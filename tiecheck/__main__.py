"""`python -m tiecheck` and the console script."""

from __future__ import annotations

import gc

YOUNG = 100_000
"""Objects that are made before the garbage collector looks at them: with its 700 a tenth of a start is spent on it."""


def main() -> None:
    """Run the command line."""
    gc.set_threshold(YOUNG)
    from tiecheck.cli.main import cli

    cli.main(prog_name="tiecheck")


if __name__ == "__main__":
    main()
