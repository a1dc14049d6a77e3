"""`python -m tiecheck.cli.hook FILE...`: what pre-commit runs, which names the files that change and no directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

CONFIG_BYTES = 4_000_000


def model_folders(files: Iterable[str]) -> list[str]:
    """Return the model directories that some files lie in, each once; a config.json of something else is none."""
    folders = dict.fromkeys(os.path.dirname(file) or "." for file in files)
    return [folder for folder in folders if _holds_model(folder)]


def _holds_model(folder: str) -> bool:
    """Tell whether a config names a class or a type, or weights lie there."""
    import json

    try:
        if any(name.endswith(".safetensors") for name in os.listdir(folder)):
            return True
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as stream:
            config = json.loads(stream.read(CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and bool({"architectures", "model_type"} & config.keys())


def check_changed() -> None:
    """Check the model directories that changed, with the options given before the files."""
    words = sys.argv[1:]
    options = [word for word in words if word.startswith("-")]
    folders = model_folders(word for word in words if not word.startswith("-"))
    if not folders:
        return
    from tiecheck.cli.main import cli

    cli.main(args=["check", *options, *folders], prog_name="tiecheck")


if __name__ == "__main__":
    check_changed()
