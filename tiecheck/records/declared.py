"""The declared layer: tie flags of a config, and what the tie table knows of a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiecheck.records.record import Record
from tiecheck.records.words import Kind

VENDOR_FLAG = "tied_embeddings"
"""Mistral's own word for the flag (`params.json`)."""


class Flag(Record):
    """One tie flag as it stands in a `config.json`."""

    key: str
    """The key, e.g. `tie_word_embeddings`."""
    level: tuple[str, ...]
    """The keys above it: `()` at the top, `("text_config",)` in a nested config."""
    value: object
    """The value as parsed; anything but true and false is no statement about tying."""
    line: int
    """1-based line of the key in the file."""
    column: int
    """1-based column of the key in the file."""

    @property
    def dotted(self) -> str:
        """The key with its levels, e.g. `text_config.tie_word_embeddings`."""
        return ".".join((*self.level, self.key))


class ModelConfig(Record):
    """A model directory's `config.json`."""

    path: str
    """The file, relative to the target."""
    data: Mapping[str, Any]
    """The parsed object, nested configs kept."""
    flags: tuple[Flag, ...]
    """Every tie flag at every level, in the order of the file."""
    meant: str | None = None
    """Class of transformers that an old spelling, or the name of an auto class, stands for; None for any other name."""

    @property
    def model_type(self) -> str | None:
        """`model_type`, where it is a string."""
        value = self.data.get("model_type")
        return value if isinstance(value, str) else None

    @property
    def class_name(self) -> str | None:
        """The class that saved the model: the first of `architectures`, or what that stands for."""
        return self.meant or self.written_class

    @property
    def written_class(self) -> str | None:
        """The first of `architectures`, as it is written."""
        value = self.data.get("architectures")
        if isinstance(value, list) and value and isinstance(value[0], str):
            return value[0]
        return None

    @property
    def remote_code(self) -> bool:
        """True where the config names modeling code of its own (`auto_map`)."""
        return bool(self.data.get("auto_map"))

    def integer(self, *keys: str) -> int | None:
        """Return the first positive integer under some keys, here or in a nested text config."""
        levels: list[Mapping[str, Any]] = [self.data]
        levels += [v for k, v in self.data.items() if k.endswith("_config") and isinstance(v, dict)]
        for level in levels:
            for key in keys:
                value = level.get(key)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
        return None


class TieSpec(Record):
    """One group of names that a class can tie, as the tie table learned it from the library itself."""

    names: tuple[str, ...]
    """Parameter names of the class, sorted."""
    source: str
    """The name the others are redirected to."""
    kind: Kind
    """Kind in which the class really builds the group when it ties it."""
    silent: bool
    """Tied when no config level says anything."""
    on: bool
    """Tied when the controlling flag is true."""
    off: bool
    """Tied when the controlling flag is false: some classes tie whatever the flag says."""
    level: tuple[str, ...]
    """The config level whose flag controls the group."""
    exact: bool
    """False where the names hang on the config (one a layer), so that they hold for the default config only."""
    spellings: Mapping[str, tuple[str, ...]]
    """Name -> the other names under which its loader finds it in a checkpoint."""
    key: str = "tie_word_embeddings"
    """The key of the flag: lfm2 reads `tie_embedding` too, csm `tie_codebooks_embeddings`."""
    joint: tuple[tuple[str, ...], ...] = ()
    """Levels whose flags untie the group only if all of them are false; empty where one flag decides."""
    newer: tuple[tuple[str, str], ...] = ()
    """In a group of 4.57: (its name, the name of transformers 5 for the same parameter), where the two differ."""
    unlike: bool = False
    """True where the class's own members have different shapes where they are not tied (ImageGPT's head)."""


class Architecture(Record):
    """The facts known about a model's class without importing it."""

    class_name: str | None
    """The class, by `architectures` in the config."""
    known: bool
    """True where the tie table has the class; otherwise names, shapes and the config have to do."""
    ties: tuple[TieSpec, ...]
    """The groups the class can tie; empty for a class that ties nothing."""
    origin: str
    """Where it is known from, e.g. `transformers 5.23.0`."""
    head_scale: float | None
    """Factor that the class multiplies its logits by (T5: 1/sqrt(d_model)); None where it is not known."""
    embedding: str | None = None
    """The name of the token embedding (`get_input_embeddings`); None where the class has none or it is not known."""
    head: str | None = None
    """The name of the language-model head's weight (`get_output_embeddings`); None likewise."""
    prefix: str = ""
    """The class's `base_model_prefix`: the part of a name that a base model's own checkpoint leaves out."""
    declared: tuple[tuple[str, str], ...] = ()
    """Targets and sources as the class declares them, patterns kept; 4.57 names no source, which is empty then."""
    tried: frozenset[tuple[str, ...]] = frozenset({()})
    """The config levels whose flags were tried; what a flag anywhere else does is not known."""
    repairs: bool = False
    """True where a class of 4.57 loads with code of its own that looks after missing members (LongT5)."""
    takes: frozenset[str] = frozenset()
    """Biases that a class of 4.57 takes for their whole group where they alone are stored (Luke's)."""
    unread: frozenset[str] = frozenset()
    """Biases of tied groups that no forward pass reads where they are tensors of their own (RoBERTa's first)."""
