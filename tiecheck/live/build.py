"""Building what is to be looked at live: a directory's class, or an attribute the user named.

Building runs code, so it happens only where it was asked for: `--live` runs transformers' own classes,
`--trust-remote-code` the directory's, and `module:attribute` what it names.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from tiecheck.config.options import Config
from tiecheck.errors import MissingExtraError, OutOfTimeError, TargetError, TiecheckError, exception_line, near_words
from tiecheck.records.declared import ModelConfig
from tiecheck.records.stored import Checkpoint
from tiecheck.records.words import Unknown
from tiecheck.targets.parse import Target

if TYPE_CHECKING:
    from torch import nn


class Built(NamedTuple):
    """A module that was built, and how."""

    module: nn.Module
    origin: str
    """`built on meta` or `loaded`."""


def build_directory(
    root: str, model: ModelConfig | None, checkpoint: Checkpoint | None, config: Config
) -> Built | Unknown:
    """Build the class a model directory names, on the meta device, or with its weights; or say why it was not built.

    Without torch or transformers it raises a `MissingExtraError`.
    """
    if model is None:
        return Unknown("there is no config.json to build the class from")
    if model.remote_code and not config.trust_remote_code:
        return Unknown(f"{model.class_name or 'the class'} is the directory's own code; --trust-remote-code runs it")
    if config.load and checkpoint is None:
        return Unknown("there are no weights to load")
    try:
        from tiecheck.live.transformers.loading import build_pretrained
    except ImportError as error:
        raise MissingExtraError("Building the class", "live") from error
    found = build_pretrained(root, model, load=config.load, trust=config.trust_remote_code)
    return found if isinstance(found, Unknown) else Built(found, "loaded" if config.load else "built on meta")


def build_attribute(target: Target) -> nn.Module:
    """Build the module that a `package.module:attribute` or `file.py:attribute` names. Runs that code.

    The attribute may be a module, or a class or function that returns one when called without arguments. A
    `TargetError` tells what keeps it from being imported or giving one.
    """
    try:
        from torch import nn
    except ImportError as error:
        raise MissingExtraError("Building a model", "live") from error
    with _on_path(_folder(target)):
        value = _attribute(target)
        if not isinstance(value, nn.Module) and callable(value):
            with _told(f"{target.text}: calling it", target.path):
                value = value()
    if not isinstance(value, nn.Module):
        raise TargetError(
            f"{target.text} gives an object of type {type(value).__name__}, not a torch.nn.Module", target.path
        )
    return value


def _folder(target: Target) -> str:
    """Return where the target's own imports are looked for: beside the file, or here."""
    return os.path.dirname(os.path.abspath(target.path)) if target.path.endswith(".py") else os.getcwd()


@contextlib.contextmanager
def _told(what: str, path: str) -> Iterator[None]:
    """Turn whatever the target's code raises, `sys.exit` included, into a sentence; Ctrl-C and the end of time stay."""
    try:
        yield
    except (TiecheckError, KeyboardInterrupt, OutOfTimeError):
        raise
    except BaseException as error:
        hint = ""
        if isinstance(error, TypeError) and "required" in str(error) and "argument" in str(error):
            hint = "; name a function that needs no arguments and returns the model"
        hint = hint or _of_the_4x_line(error)
        raise TargetError(f"{what} raised {exception_line(error)}{hint}", path) from error


def _of_the_4x_line(error: BaseException) -> str:
    """Say what is wrong with the declaration of a `PreTrainedModel` that could not be built, where that is why."""
    if "transformers.modeling_utils" not in sys.modules:
        return ""
    from tiecheck.live.transformers.tied_weights_keys import class_problems

    base = sys.modules["transformers.modeling_utils"].PreTrainedModel
    trace = error.__traceback__
    while trace is not None:
        model = trace.tb_frame.f_locals.get("self")
        if isinstance(model, base):
            for problem in class_problems(type(model)):
                what = "`_tied_weights_keys`" if problem.form == "list" else "`tie_weights`"
                return f"; {problem.class_name}'s {what} is of the transformers 4 line (tiecheck rule TIE311)"
        trace = trace.tb_next
    return ""


def _attribute(target: Target) -> Any:
    value = _import(target)
    for part in (target.attribute or "").split("."):
        with _told(f"looking {part} up in {target.path}", target.path):
            found = hasattr(value, part)
            inner = getattr(value, part, None)
        if not found:
            near = near_words(part, dir(value))
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TargetError(f"{target.path} has no {part!r}{hint}", target.path)
        value = inner
    return value


def _import(target: Target) -> Any:
    import importlib
    import importlib.util

    with _told(f"importing {target.path}", target.path):
        if not target.path.endswith(".py"):
            return importlib.import_module(target.path)
        name = f"_tiecheck_target_{os.path.splitext(os.path.basename(target.path))[0]}"
        spec = importlib.util.spec_from_file_location(name, target.path)
        if spec is None or spec.loader is None:
            raise TargetError(f"{target.path} cannot be imported", target.path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickles look their own module up
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _on_path(directory: str) -> Iterator[None]:
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(directory)
