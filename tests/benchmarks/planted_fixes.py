"""What `tiecheck fix --apply --unsafe` makes of a planted file: judged by its text, and its class built on meta."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import os
import shutil
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from tiecheck.config.options import Config
from tiecheck.fix.run import FixOptions
from tiecheck.fix.sources import fix_sources
from tiecheck.tables.generate.configs import shrink_layers
from tiecheck.targets.parse import parse_target

Ties = frozenset[frozenset[str]]
PLAIN: Ties = frozenset({frozenset({"head", "table"})})
"""The tie of the plain class that is written where no class of transformers has a place for the fault."""

NUMBER = itertools.count()
MOVING = ("TIE806", "TIE817")
"""Rules whose fix moves a line, or makes a method of it."""

CONFIG = Config(fail_on="info")


class Fixed(NamedTuple):
    """One planted file after a fix."""

    text: str
    done: bool
    """True where the planted finding was fixed."""
    wrong: tuple[str, ...]
    built: bool = False
    """True where the untouched class builds, and so does the fixed one."""
    more: tuple[str, ...] = ()
    """Codes that stay for the user, who was told of them by the first run."""


def fixed_file(path: str, name: str, text: str, code: str, line: int) -> Fixed:
    """Fix a planted file beside one that is untouched, and hold text and class against what they were."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.py")
        file.write_bytes(text.encode())
        shutil.copy(Path(transformers.__path__[0], "models/llama/modeling_llama.py"), folder)
        options = FixOptions({"TIE801": "weight", "TIE808": "declared"}.get(code), unsafe=True, apply=True)
        first = fix_sources(parse_target(folder), CONFIG, options)
        after = file.read_bytes()
        again = fix_sources(parse_target(folder), CONFIG, options)
        wrong = ["a second run changes more"] if again.chosen or file.read_bytes() != after else []
        wrong += ["files are beside it"] if sorted(os.listdir(folder)) != ["model.py", "modeling_llama.py"] else []
    more, told = ([f.code for f, _ in run.left if f.severity != "info"] for run in (again, first))
    wrong += [f"a second run tells {more}, the first {told}"] if more != told else []
    if code not in {f.code for f, _ in first.chosen}:
        wrong += ["it is not found"] if code not in {f.code for f, _ in first.left} else []
        return Fixed(after.decode(), False, (*wrong, *(["it is left, and changed"] if after != text.encode() else [])))
    wrong += ["it is fixed, and found again"] if code in more else []
    wrong += _changed_elsewhere(text.encode(), after, line, widely=code in MOVING)
    now, meant = built_ties(path, name, after.decode()), untouched(path, name)
    unfit = code in ("TIE812", "TIE813") and now == built_ties(path, name, text)  # a flag or number that is not there
    built = isinstance(meant, frozenset) and not (unfit and isinstance(now, str))
    same = now == meant or (code == "TIE812" and isinstance(now, frozenset) and now > meant)  # what it shares is new
    wrong += [f"it does not build as it did: {now}"] if built and not same else []
    return Fixed(after.decode(), True, tuple(wrong), built, tuple(more))


def _changed_elsewhere(old: bytes, new: bytes, line: int, *, widely: bool) -> list[str]:
    """Say so where a line changed that is not of the statement (widely: class) with a finding, or right behind it."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    gone = [n for n, text in enumerate(before, 1) if text.startswith(b"import ") and text not in after]
    before = [text for n, text in enumerate(before, 1) if n not in gone]
    old, line = b"".join(before), line - sum(n < line for n in gone)
    first = next(n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b) + 1
    both = zip(before[::-1], after[::-1], strict=False)
    last = len(before) - next(n for n, (a, b) in enumerate(both) if a != b)
    statements = (node for node in ast.walk(ast.parse(old)) if isinstance(node, ast.stmt) and node.lineno <= line)
    around = [node for node in statements if (node.end_lineno or 0) >= line]
    here = max((n for n in around if not widely or isinstance(n, ast.ClassDef)), key=lambda node: node.lineno)
    ends = here.end_lineno or 0
    return [] if here.lineno <= first <= ends + 1 and last <= ends else [f"lines {first} to {last} changed"]


def built_ties(path: str, name: str, text: str) -> Ties | str:
    """Names of each parameter that has several, before and after `tie_weights()`, of a class of a module's text.

    The text is run as one more module of the package of `path`; the class is built on meta with few layers. A string
    is the error that it raises.
    """
    package = ".".join(("transformers", *Path(path).relative_to(transformers.__path__[0]).parent.parts))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, Path(path).name)
        file.write_bytes(text.encode())
        spec = importlib.util.spec_from_file_location(f"{package}.planted_{next(NUMBER)}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
            return _plain_ties(module) if name == "Plain" else _ties(getattr(module, name))
        except Exception as error:  # noqa: BLE001  # whatever the planted fault ends in
            return f"{type(error).__name__}: {error}"
        finally:
            del sys.modules[spec.name]


@lru_cache
def untouched(path: str, name: str) -> Ties | str:
    """The ties of a class as it is published, or of the plain class."""
    return PLAIN if name == "Plain" else built_ties(path, name, Path(path).read_text(encoding="utf-8"))


def _plain_ties(module: Any) -> Ties:
    """The tie of the plain class, where it is one parameter and drawn as a linear layer is."""
    (one,) = module.Plain(600, 16).parameters()
    return PLAIN if one.std() < 0.5 else frozenset()


def _ties(cls: Any) -> Ties:
    config = cls.config_class()
    small = cls.config_class(**shrink_layers(config.to_dict(), config, 2))
    for one in (small, small.get_text_config()):
        one.tie_word_embeddings = True
    with torch.device("meta"):
        model = cls(small)
    begun = _shared(model)
    model.tie_weights()
    assert begun == _shared(model), "tie_weights() changes the ties"
    return begun


def _shared(model: torch.nn.Module) -> Ties:
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return frozenset(frozenset(some) for some in names.values() if len(some) > 1)
