"""Fuzz cases: what a target is made of, drawn from a seed, kept as JSON, and written to a directory."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

FORMATS: dict[str, Callable[[Draw], Case]] = {}
"""Format -> what draws a case of it."""


class Case(NamedTuple):
    """One target, or one command line, and how it is asked for."""

    format: str
    files: dict[str, Any]
    """Path -> bytes; or `{"link": PATH}`, `{"fifo": True}`, `{"hard": PATH}`, `{"hole": BYTES, "head": bytes}`."""
    words: tuple[str, ...] = ("{}",)
    """The command line; `{}` stands for the directory, `{url}` for the server of the answers."""
    options: dict[str, Any] = {}  # noqa: RUF012  # never written to
    """Options of `tiecheck.check`."""
    answers: dict[str, Any] = {}  # noqa: RUF012
    """Path of a request -> the bytes of the whole answer, one of them or several in turn."""
    environment: dict[str, str] = {}  # noqa: RUF012
    """Variables that a whole process gets."""


class Draw(random.Random):
    """A source of odd values."""

    def chance(self, part: float) -> bool:
        return self.random() < part

    def choice(self, seq: Any) -> Any:
        """Draw one of a sequence in a third of the time that the library takes: a case makes hundreds."""
        return seq[int(self.random() * len(seq))]

    def word(self) -> str:
        return self.choice(WORDS) if self.chance(0.8) else self.text()

    def text(self) -> str:
        made = "".join(self.choice(CHARACTERS) for _ in range(self.choice((0, 1, 2, 3, 8, 30))))
        return made * (self.choice((100, 3000)) if self.chance(0.02) else 1)

    def number(self) -> int:
        base = self.choice(NUMBERS)
        return self.choice((base, base, -base, base + 1, base - 1, self.getrandbits(self.choice((3, 8, 16, 40, 70)))))

    def value(self, depth: int = 0) -> Any:
        """Any JSON value, by its Python type."""
        if depth < 4 and self.chance(0.25):
            if self.chance(0.5):
                return [self.value(depth + 1) for _ in range(self.choice((0, 1, 2, 3)))]
            return {self.word(): self.value(depth + 1) for _ in range(self.choice((0, 1, 2, 3)))}
        return self.choice((None, True, False, 0, 1, 1.5, self.number(),
        (self.number() % (1 << 70)) / 3.0 if self.chance(0.3) else 2,
                            Raw(self.choice(RAW_VALUES)), self.word(), self.text()))  # fmt: skip

    def damaged(self, raw: bytes) -> bytes:
        """Some bytes changed, cut, doubled or put in."""
        made = bytearray(raw)
        for _ in range(self.choice((1, 1, 1, 2, 5))):
            at = self.randrange(len(made) + 1)
            count = self.choice((1, 1, 2, 4, 8, 100))
            kind = self.randrange(7)
            if kind == 0 and made:
                made[min(at, len(made) - 1)] = self.randrange(256)
            elif kind == 1 and made:
                made[min(at, len(made) - 1)] ^= 1 << self.randrange(8)
            elif kind == 2:
                del made[at : at + count]
            elif kind == 3:
                made[at:at] = made[at : at + count]
            elif kind == 4:
                made[at:at] = self.choice(SPLINTERS)
            elif kind == 5:
                made[at : at + count] = self.randbytes(count)
            else:
                del made[at:]
        return bytes(made)


class Raw(NamedTuple):
    """JSON text that stands as it is."""

    text: str


class Pairs(list[tuple[Any, Any]]):
    """An object whose keys may repeat."""


NUMBERS = (0, 1, 2, 3, 4, 7, 8, 16, 32, 64, 127, 255, 4096, 32000, 1 << 16, 1 << 31, 1 << 32, 1 << 53, 1 << 63, 1 << 64,
           10**9, 10**12, 10**30, 10**400)  # fmt: skip
CHARACTERS = (
    "abz.AZ_09-/\\ \t\n\r\0\x01\x1b\x7f\x85\u00a0\u00b2\u00e9\u0660\u202e\u2028\ufeff\uffff\U0001f600{}[]\"':,%*~$#"
)
SPLINTERS = (b"\0", b"\xff", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\ud800", b"\xef\xbb\xbf", b"NaN",
    b"1e999", b"-0",
             b"9" * 30, b"[" * 3000, b'{"a":' * 1500, b"null", b"..", b"\n", b"\r\n\r\n", b"\x80\x02",
             b"PK\x03\x04")  # fmt: skip
RAW_VALUES = ("NaN", "Infinity", "-Infinity", "-0", "1e999", "-1e999", "1e-999", "0.1e1", "1.0", "01", "+1", "9" * 5000,
              '"\\ud800"', '"\\udc00x"', '"\\u0000"', "[" * 2000 + "]" * 2000, '{"a":' * 990 + "1" + "}" * 990,
              "nul", "")  # fmt: skip
WORDS = ("lm_head.weight", "model.embed_tokens.weight", "lm_head", "weight", "transformer.wte.weight", "shared.weight",
         "a.weight", "b.weight", "state_dict", "model", "tie_word_embeddings", "text_config", "architectures",
         "model_type",
         "torch", "x", "", "../x", "/etc/hostname", "model.safetensors", "__metadata__", "dtype", "shape")  # fmt: skip


def written(value: Any) -> str:
    """JSON text of a value, `Raw` and `Pairs` in it as they are."""
    match value:
        case Raw(text):
            return text
        case Pairs():
            return "{" + ",".join(f"{written(k)}:{written(v)}" for k, v in value) + "}"
        case dict():
            return "{" + ",".join(f"{written(k)}:{written(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(written, value)) + "]"
        case int() if not isinstance(value, bool):
            return _digits(value)
    return json.dumps(value)


def _digits(value: int) -> str:
    return str(value) if value.bit_length() < 14000 else "9" * 5000


def encoded(draw: Draw, text: str) -> bytes:
    """Bytes of a text, now and then in another encoding, damaged, or behind a mark."""
    raw = text.encode("utf-8", "surrogatepass")
    if draw.chance(0.03):
        raw = text.encode(draw.choice(("utf-16", "utf-32", "utf-16-le", "utf-8-sig")), "surrogatepass")
    return draw.damaged(raw) if draw.chance(0.12) else raw


def drawn_case(format: str, seed: int) -> Case:  # noqa: A002
    """Return the case of a format and a seed: always the same one."""
    return FORMATS[format](Draw(f"{format}:{seed}"))


def place(case: Case, root: str) -> None:
    """Write the files of a case into an empty directory."""
    _empty(root)
    for name, entry in case.files.items():
        path = os.path.join(root, name)
        if "/" in name:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(entry, bytes):
            with open(path, "wb") as file:
                file.write(entry)
        elif "link" in entry:
            os.symlink(entry["link"], path)
        elif "fifo" in entry:
            os.mkfifo(path)
        elif "hard" in entry:
            os.link(os.path.join(root, entry["hard"]), path)
        else:
            Path(path).write_bytes(entry["head"])
            os.truncate(path, len(entry["head"]) + entry["hole"])


def _empty(root: str) -> None:
    """Make a directory, or leave nothing in the one that is there."""
    os.makedirs(root, exist_ok=True)
    for entry in os.scandir(root):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return {"text": value.decode("ascii")}
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _bytes(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"text"}:
            return value["text"].encode()
        if value.keys() == {"base64"}:
            return base64.b64decode(value["base64"])
        return {key: _bytes(item) for key, item in value.items()}
    return [_bytes(item) for item in value] if isinstance(value, list) else value


def to_json(case: Case, **more: Any) -> str:
    """Return a case as JSON, with what was found of it."""
    fields = {name: value for name, value in case._asdict().items() if value or name in {"files", "words"}}
    return json.dumps(more | {"case": _plain(fields)}, indent=1, ensure_ascii=True) + "\n"


def from_json(text: str) -> tuple[Case, dict[str, Any]]:
    """Return a case that was kept, and what was found of it."""
    data = json.loads(text)
    case = _bytes(data.pop("case"))
    return Case(**case | {"words": tuple(case.get("words", ("{}",)))}), data
