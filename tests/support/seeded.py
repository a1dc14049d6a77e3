"""What is said under some PYTHONHASHSEED, of several parts by one process: its imports take most of the time."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OLMO = ("olmo-module-alias", "--load", "--trust-remote-code")


def planners() -> dict[str, dict[str, int | str]]:
    """Return the maps that the installed planners really make."""
    from accelerate import infer_auto_device_map
    from planner_models import ENTANGLED, declared_entangled, entangled
    from transformers.integrations.accelerate import _get_device_map

    logging.disable(logging.CRITICAL)
    ours = dict(infer_auto_device_map(entangled(), max_memory=dict(ENTANGLED)))
    theirs = dict(_get_device_map(declared_entangled(), "sequential", dict(ENTANGLED), None))
    return {"accelerate": ours, "transformers": theirs}


def views() -> dict[str, str]:
    """Return the views of every kind of tie, but for those that take seconds to build."""
    from zoo_of_ties import ROWS

    from tiecheck.peers.views.registry import ask_tools

    kept = {name: row for name, row in ROWS.items() if not row.group and not name.startswith(("13", "22"))}
    return {name: str(ask_tools(row.build(), run=True)) for name, row in kept.items()}


def states() -> dict[str, str]:
    """Return the views of declared ties in every state."""
    from declared_models import STATES, Config, Declared

    from tiecheck.peers.views.registry import ask_tools

    found = {}
    for change, _, _ in STATES:
        model = Declared(Config())
        change(model)
        found[change.__name__] = str(ask_tools(model, run=True))
    return found


def inspected() -> list[str]:
    """Return what `inspect` prints of a fixture, and what it writes as JSON."""
    from click.testing import CliRunner

    from tiecheck.cli.main import cli

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "out.json")
        words = [str(ROOT / "fixtures" / "models" / OLMO[0]), *OLMO[1:], "-f", "text", "-f", f"json={written}"]
        run = CliRunner().invoke(cli, ["inspect", *words], prog_name="tiecheck")
        assert run.exit_code == 0, run
        return [run.stdout, written.read_text()]


PARTS: dict[str, Callable[[], Any]] = {"inspected": inspected, "planners": planners, "views": views, "states": states}
QUICK = ("inspected", "planners", "views")


def under_seed(seed: int, parts: Iterable[str] = QUICK) -> dict[str, Any]:
    """Return what some parts say in a process of its own."""
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(seed), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, __file__, *parts]
    done = subprocess.run(line, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Removed shared tensor" not in done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps({part: PARTS[part]() for part in sys.argv[1:]}))
