"""`python -m tiecheck` and the console script."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from tiecheck.cli import cli

    cli.main(prog_name="tiecheck")


if __name__ == "__main__":
    main()
