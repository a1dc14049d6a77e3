"""Run in a process with some PYTHONHASHSEED: prints the maps that the installed planners really make."""

from __future__ import annotations

import json
import logging

from accelerate import infer_auto_device_map
from planner_models import ENTANGLED, declared_entangled, entangled
from transformers.integrations.accelerate import _get_device_map

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    ours = dict(infer_auto_device_map(entangled(), max_memory=dict(ENTANGLED)))
    theirs = dict(_get_device_map(declared_entangled(), "sequential", dict(ENTANGLED), None))
    print(json.dumps({"accelerate": ours, "transformers": theirs}))
