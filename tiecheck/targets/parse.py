"""The way from what the user typed to a Target. Parses only; no weight is read and no code is run here."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from typing import Literal

from tiecheck.errors import TargetError, near_words, without_secrets
from tiecheck.records.record import Record
from tiecheck.records.words import LONE_ENDINGS

TargetType = Literal["checkpoint", "module", "source", "adapter", "gguf", "onnx"]

ADDRESS = r"[A-Za-z][A-Za-z0-9+.:-]*://"
HUB_ID = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
"""Compiled when they are first asked for: a path that is there needs neither."""

NEIGHBOURS = 2_000
"""Names of a folder among which the one that was meant is looked for."""

HUB_FOLDER = "models--"
"""Beginning of a model's folder in the hub's cache; owner and name follow, two dashes between them."""

SOURCE_ENDINGS = (".py", ".ipynb")
FILE_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index.json")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.", "adapters.")
NO_MODEL = (
    "adapter_",
    "adapters.",
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "training_args",
    "zero_pp_rank",
    "bf16_zero_pp_rank",
    "common.pt",
    "openvino_",
    "tf_model.",
    "flax_model.",
)
"""Beginnings of what trainers leave beside a model, or in place of one; none of it is the model (transformers 5.23
`trainer.py`, accelerate 1.15; `adapters.` of mlx-lm; the options in a distributed checkpoint of Megatron; weights and
indexes of other frameworks)."""
ATTRIBUTE = r"(?P<place>.+):(?P<attribute>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)"
MODULE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"


class Target(Record):
    """A thing that is to be checked."""

    text: str
    """As the user wrote it, which is how the report calls it; an address without its password and query."""
    type: TargetType
    """The kind of thing it is."""
    path: str
    """Directory, file or address (`checkpoint`), file or dotted module (`module`), file or directory (`source`),
    directory (`adapter`), file (`gguf`, `onnx`)."""
    attribute: str | None
    """The attribute to build (`module`)."""
    remote: bool = False
    """True where `path` is an address (`scheme://...`), of which the store itself tells whether it is there."""

    @property
    def directory(self) -> str | None:
        """The model directory, where the target is one."""
        return self.path if self.type == "checkpoint" and not self.remote and os.path.isdir(self.path) else None


def given_path(given: object) -> str | None:
    """Return what was given where it is a path or an address; None for a module, of which only the type is asked.

    `isinstance` would ask its `__class__` too, which is foreign code.
    """
    return os.fspath(given) if issubclass(type(given), (str, os.PathLike)) else None  # type: ignore[call-overload]


def parse_target(text: str) -> Target:
    """Tell what a TARGET argument means. A plain existing path always wins.

    Args:
        text: A model directory, a weights file, an index, `package.module:attribute`, `file.py:attribute`,
            `org/name` on the hub, or an address (`hf://`, `https://`, `s3://` and what else fsspec knows).

    Raises:
        TargetError: There is no such thing, or this version does not read that kind.
    """
    if _exists(text):
        return _directory(text) if os.path.isdir(text) else _file(text)
    if os.path.islink(text):
        raise TargetError(f"{text} is a link that leads nowhere, to {os.readlink(text)}", text)
    if _is_address(text):
        return _address(text)
    if _is_hub_id(text):
        return Target(text, "checkpoint", f"hf://{text}", None, remote=True)
    match = re.fullmatch(ATTRIBUTE, text)
    if match:
        place, attribute = match["place"], match["attribute"]
        if place.endswith(".py"):
            if not _exists(place):
                raise TargetError(_missing(place), place)
            return Target(text, "module", place, attribute)
        if re.fullmatch(MODULE, place):
            return Target(text, "module", place, attribute)
    raise TargetError(_missing(text), without_secrets(text))


def _exists(text: str) -> bool:
    """Tell whether there is such a path; an empty word, or a path that cannot be looked at, is told at once."""
    if not text:
        raise TargetError("a TARGET is empty; give a model directory, a weights file or module:attribute", text)
    try:
        os.stat(text)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # no permission, a loop of links, a NUL in the name
        why = getattr(error, "strerror", None) or error
        raise TargetError(f"{text} cannot be looked at: {why}", text) from error
    return True


def whole_weights(names: Collection[str]) -> list[str]:
    """Return the names that are weights of a whole model by their ending."""
    return [n for n in names if n.endswith(FILE_ENDINGS) and not n.startswith(NO_MODEL)]


def holds_adapter(names: Collection[str]) -> bool:
    """Tell whether a directory of these names is an adapter's.

    A value head, trained embeddings or an earlier step beside its weights make no model of it: `from_pretrained` takes
    the base from the directory where that has a config.json, and looks for two names (transformers 5.23).
    """
    weights = whole_weights(names)
    if ADAPTER_CONFIG not in names or not weights:
        return ADAPTER_CONFIG in names
    whole = "config.json" in names and any(n.startswith(("model.safetensors", "pytorch_model.bin")) for n in weights)
    return not whole and any(name.startswith(ADAPTER_WEIGHTS) for name in names)


def layout_word(names: list[str]) -> str | None:
    """Return what a directory is whose weights are not read; None for any other."""
    weights = whole_weights(names)
    if weights and weights != ["model.bin"]:
        return None
    from tiecheck.targets.layouts import layout_of

    return layout_of(names, weights)


def targets_below(text: str, *, recursive: bool = False, built: bool = False) -> Iterator[str]:
    """Yield the targets that a word stands for: mostly itself.

    Args:
        text: The word.
        recursive: Whether every model below a directory is one.
        built: Whether a class is to be built of a config, also where a GGUF or ONNX file lies beside it.
    """
    try:
        names = os.listdir(text)
    except (OSError, ValueError):  # no directory, or whoever reads it tells
        names = []
    alone = built or not any(name.lower().endswith(LONE_ENDINGS) for name in names)
    if not names or (not recursive and (("config.json" in names and alone) or whole_weights(names))):
        yield text
        return
    from tiecheck.targets.layouts import model_parts, models_below

    yield from models_below(text, whole_weights) if recursive else model_parts(text, names) or [text]


def stored_models_below(text: str) -> Iterator[str]:
    """Yield the models below a directory that have weights; a lone `config.json` may be anybody's."""
    from tiecheck.targets.layouts import models_below

    for place in models_below(text, whole_weights):
        if place != text and (os.path.isfile(place) or whole_weights(os.listdir(place))):
            yield place


def _directory(text: str) -> Target:
    try:
        names = os.listdir(text)
    except OSError as error:
        raise TargetError(f"{text} cannot be listed: {error.strerror or error}", text) from error
    if not names:
        raise TargetError(f"{text} is an empty directory", text)
    if holds_adapter(names):
        return Target(text, "adapter", text, None)
    layout = layout_word(names)
    if layout is not None and ("config.json" not in names or "model.bin" in names):
        raise TargetError(f"{text} is {layout}", text)
    if "config.json" in names or any(name.endswith(FILE_ENDINGS) for name in names):
        return Target(text, "checkpoint", text, None)
    if "snapshots" in names and os.path.basename(text.rstrip("/")).startswith(HUB_FOLDER):
        raise TargetError(f"{text} is a folder of the hub's cache; name one of its snapshots: {_snapshot(text)}", text)
    if _holds_source(text):
        return Target(text, "source", text, None)
    from tiecheck.targets.layouts import told_below

    if below := told_below(text, whole_weights):
        raise TargetError(below, text)
    raise TargetError(f"{text} holds no config.json and no weights that are known by their ending", text)


def _snapshot(text: str) -> str:
    """Return the snapshot that a folder of the hub's cache calls main, else the first one."""
    folder, ref, main = os.path.join(text, "snapshots"), os.path.join(text, "refs", "main"), ""
    with contextlib.suppress(OSError, ValueError):
        if os.path.isfile(ref):  # a pipe would keep us waiting
            with open(ref, encoding="utf-8") as stream:
                main = stream.read(100).strip()
    held = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return os.path.join(folder, main if main in held else held[0] if held else "...")


def _holds_source(path: str) -> bool:
    """Tell whether a folder, or one of the first that lie below it, has Python files."""
    from tiecheck.targets.layouts import folder_walk

    for seen, (_, _, names) in enumerate(folder_walk(path)):
        if any(name.endswith(SOURCE_ENDINGS) and name != "zero_to_fp32.py" for name in names):  # DeepSpeed's own
            return True
        if seen >= NEIGHBOURS:
            return False
    return False


def _file(text: str) -> Target:
    if text.endswith(SOURCE_ENDINGS):
        return Target(text, "source", text, None)
    if os.path.basename(text) == "config.json":
        raise TargetError(f"{text} is a config alone; name its directory", text)
    folder, name = os.path.split(text)
    if name.startswith(ADAPTER_WEIGHTS) and _exists(os.path.join(folder, ADAPTER_CONFIG)):
        return Target(text, "adapter", folder or ".", None)
    if name.lower().endswith(LONE_ENDINGS):
        return Target(text, "gguf" if name.lower().endswith(".gguf") else "onnx", text, None)
    layout = None if name.endswith((*FILE_ENDINGS, ".json", ".txt")) else layout_word([name])
    if layout is not None:
        raise TargetError(f"{text} is {layout}", text)
    return Target(text, "checkpoint", text, None)


def _is_address(text: str) -> bool:
    """Tell whether a text begins as `scheme://` does."""
    return "://" in text and re.match(ADDRESS, text) is not None


def _is_hub_id(text: str) -> bool:
    """Tell whether a missing path is a hub model's id: never below a folder of ours, never with a file's ending.

    So that a typo in a path stays one: whatever is refused here can be written as `hf://...`.
    """
    owner = text.partition("/")[0]
    ending = text.endswith((*FILE_ENDINGS, *LONE_ENDINGS, ".json", ".py"))
    return re.fullmatch(HUB_ID, text, re.ASCII) is not None and not ending and not os.path.lexists(owner)


def _address(text: str) -> Target:
    """An address: `file://` is a local path, anything else is asked for when it is read."""
    scheme, _, rest = text.partition("://")
    if re.search(r"::(?![^\[\]]*\])", text):
        raise TargetError(f"{without_secrets(text)} is a chain of addresses (::), which is not read")
    if scheme.lower() == "file":
        path = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
        if not _exists(path):
            raise TargetError(_missing(path), path)
        return (_directory(path) if os.path.isdir(path) else _file(path))._replace(text=text)
    if not rest.strip("/"):
        raise TargetError(f"{text} names no model; write {scheme}://... with its place", text)
    blank = scheme.lower() in {"http", "https", "hf"} and " " in text  # a key of a bucket may have one
    if blank or any(c < " " or c == "\x7f" for c in text):
        raise TargetError(f"{without_secrets(text)!r} holds a blank or a control character, and is no address")
    return Target(without_secrets(text), "checkpoint", f"{scheme.lower()}://{rest}", None, remote=True)


def _missing(text: str) -> str:
    """Return what to say of something that is not there, with the nearest thing that is."""
    parent, name = os.path.split(text.rstrip("/"))
    try:
        neighbours = os.listdir(parent or ".")
    except OSError:
        neighbours = []
    near = near_words(name, neighbours[:NEIGHBOURS])
    hint = f"; did you mean {os.path.join(parent, near[0])}?" if near else ""
    if name.startswith(HUB_FOLDER):
        hint = f"; as a hub model it is {name.removeprefix(HUB_FOLDER).replace('--', '/')}"
    elif not hint and re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", text):
        hint = f"; if it is a hub model, write hf://{text}"
    elif not hint and re.fullmatch(r"[\w.-]+", text) and not text.endswith(FILE_ENDINGS):
        hint = f"; a hub model is written with its owner, org/{text}"
    return f"there is no {without_secrets(text)}{hint}"
