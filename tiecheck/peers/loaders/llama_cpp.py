"""llama.cpp's converter and loader at commit 0c1e57098 (llama-cpp-python 0.3.36, 2026-11), by their public source.

- The converter (`conversion/*.py`) writes what is stored; it reads the flag for a few classes only, from the config
  with the text config laid over it, absent being false (`TextModel.__init__`,
  `hparams.get("tie_word_embeddings", False)`).
- A head that the GGUF architecture has no place for: `ValueError: Can not map tensor 'lm_head.weight'`
  (`ModelBase.map_tensor_name`, `conversion/base.py`).
- The loader (`src/models/*.cpp`, `load_arch_tensors`): `output.weight` is required (`missing tensor 'output.weight'`,
  `src/llama-model-loader.cpp`), falls back to the embedding (`TENSOR_NOT_REQUIRED`, then `TENSOR_DUPLICATED`), or is
  never read, and the embedding serves. Neither reads the flag: a lost head becomes the embedding.
- `token_embd.weight` is required of every model: an inverted checkpoint converts and does not load.

Which class does which: `tiecheck/tables/engines.txt`, made from these files. llama.cpp has commits, not versions that
`--for` could take: its range is the number of llama-cpp-python, which carries that commit.
"""

from __future__ import annotations

from tiecheck.peers.loaders.engines import (
    FLAG,
    config_at_level,
    embedding_and_head,
    fields_of,
    named_class,
    parsed_config,
)
from tiecheck.peers.loaders.loader_rules import UNREAD, Decision, Loader, Situation, StoredMembers, stored_pair

COMMIT = "0c1e57098"
NO_EMBEDDING = "missing tensor 'token_embd.weight'"
NO_HEAD = "missing tensor 'output.weight'"
EXTRA = "done_getting_tensors: wrong number of tensors"


def _decide(situation: Situation) -> Decision | None:
    fields = fields_of("llama.cpp", COMMIT, named_class(situation))
    if fields is None or not situation.head or situation.config is None:
        return None
    if fields.startswith("unknown"):
        return Decision("unknown", fields.partition(":")[2])
    out, head = fields.split("|")
    for kind, name in zip(("=TOKEN_EMBD", "=OUTPUT"), embedding_and_head(situation), strict=True):
        if _stem(name) not in (fields_of("llama.cpp", COMMIT, kind) or "").split(" "):
            word = name or "the other member, whose name is not known,"
            return Decision("unknown", f"whether the converter maps {word} was not read")
    reads, value, dropped = None, None, head == "skip"
    if head == "flag":
        reads, value = _flag(situation)
        dropped = value is True
    decision = _settled(out, head, dropped, stored_pair(situation), situation)
    return decision._replace(reads=reads, value=value)


def _settled(out: str, head: str, dropped: bool, stored: StoredMembers, situation: Situation) -> Decision:
    """Decide by what the loader gets from what the converter wrote."""
    head_name = embedding_and_head(situation)[1]
    turned = situation.group.source == head_name
    has_head, has_embedding = (stored.source, stored.targets) if turned else (stored.targets, stored.source)
    if has_head and head == "unmapped":
        return Decision("crash", f"ValueError: Can not map tensor '{head_name}'")
    if not has_embedding:
        return Decision("crash", NO_EMBEDDING)
    if not has_head or dropped:
        return _without(out, has_head, stored)
    return Decision("crash", EXTRA) if out == "embedding" else Decision("kept-apart", None, ties=False)


def _without(out: str, has_head: bool, stored: StoredMembers) -> Decision:
    """Decide for a GGUF file without `output.weight`, the head being lost or dropped."""
    if out == "required":
        return Decision("crash", NO_HEAD, ties=False)
    if has_head and stored.alike is None:
        return Decision("unknown", UNREAD, ties=True)
    return Decision("head-discarded" if has_head and not stored.alike else "tied", None, ties=True)


def _flag(situation: Situation) -> tuple[str, bool | None]:
    config = parsed_config(situation)
    text = config_at_level(config, "text_config")
    if text is not None and FLAG in text:
        value = text[FLAG]
        return f"text_config.{FLAG}", value if isinstance(value, bool) else None
    value = config.get(FLAG)
    return FLAG, value if isinstance(value, bool) else None


def _stem(name: str) -> str:
    """Return a name as the converter looks it up: without its suffix, and without `language_model.`."""
    return name.removesuffix(".weight").replace("language_model.", "")


def head_use(architecture: str) -> str:
    """Return what the loader of a GGUF architecture does with `output.weight`, or an `unknown:REASON`."""
    known = fields_of("llama.cpp", COMMIT, f"gguf:{architecture}") if architecture.isprintable() else None
    return known or f"unknown:llama.cpp {COMMIT} has no architecture {architecture!r}"


LOADERS = (Loader("llama.cpp", COMMIT, (0, 3, 36), (0, 3, 37), "source", _decide),)
