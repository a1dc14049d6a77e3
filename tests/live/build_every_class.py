"""Builds the classes of transformers one by one as `--live` does, and prints what they reach; run by test_confined."""

from __future__ import annotations

import json
import sys
import tempfile

import torch
import transformers
from transformers.models.auto import modeling_auto

from tiecheck.files.model_config import read_config
from tiecheck.live.transformers.loading import build_pretrained, silenced_transformers

found = {"classes": 0, "built": 0, "sockets": [], "outside": [], "unbuilt": {}}


def hook(event: str, arguments: tuple[object, ...]) -> None:
    """Note each name that is looked up, each connection, and each file of the hub's cache that is opened."""
    if event in {"socket.connect", "socket.getaddrinfo"}:
        found["sockets"].append(str(arguments))
    elif event == "open" and "huggingface" in str(arguments[0]) and "site-packages" not in str(arguments[0]):
        found["outside"].append(str(arguments[0]))


mappings = [getattr(modeling_auto, name) for name in dir(modeling_auto) if name.endswith("_MAPPING_NAMES")]
values = [value for mapping in mappings for value in mapping.values()]
names = {name for value in values for name in ([value] if isinstance(value, str) else value)}
sys.addaudithook(hook)
for name in sorted(names)[:: int(sys.argv[1])]:
    try:
        config_class = getattr(transformers, name).config_class
    except (AttributeError, ImportError):  # of another release, or of a library that is not here
        continue
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = config_class()
            config.architectures = [name]
            with silenced_transformers():
                config.save_pretrained(folder)
        except Exception:  # noqa: BLE001  # a config without defaults
            continue
        found["classes"] += 1
        built = build_pretrained(folder, read_config(folder), load=False, trust=False)
        if isinstance(built, torch.nn.Module):
            found["built"] += 1
        else:
            found["unbuilt"][name] = built.reason
print(json.dumps(found))
