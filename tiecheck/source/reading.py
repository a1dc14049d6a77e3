"""Source files and notebooks: which to read, how to decode them, and their suppressions."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import tokenize
import warnings
from collections.abc import Iterator

from tiecheck.errors import TargetError
from tiecheck.files.limits import READ, target_account
from tiecheck.files.local import paused_collector
from tiecheck.records.source import SourceFile
from tiecheck.source.classes import read_tree
from tiecheck.targets.layouts import folder_walk

ENDINGS = (".py", ".ipynb")
FILE_BYTES = 4 * 1024 * 1024
"""Bytes of one file, the pictures of a notebook included."""

DATA_BYTES = 32 * 1024 * 1024
"""Bytes of a file that is looked through for ties: one of data alone may have more than is read."""

CODE = 500_000
"""Words and marks of code in one file, which may take 300 MB as a tree; the longest known, of two million characters,
has 370,000."""

PAIRS = 1_000_000
"""Things that happen in one method, times those that share or copy: a rule may ask all others of one of these."""

FILES = 20_000
"""Python files and folders of one directory; four times those of transformers, and a walk of some two seconds."""

LEFT_OUT = frozenset({"node_modules", "__pycache__", "site-packages", "build", "dist"})
"""Folders that hold no source of the project; those that begin with a dot are left out too."""

WORDS = (b"torch", b"Module", b"mbed", b"Linear", b"nn.")
"""Words one of which stands in whatever has modules; an edge of a graph has a `.weight` too."""

ALONE = (
    (b"tie", rb"tie(?!_word_embeddings\b)(?:d?_?[wpk]|check:|(?<=_to_tie))"),  # TIE803 to 805, 814, 815, and TIE901
    (b"to_empty(", rb""),  # TIE811
    (b"load_state_dict(", rb"assign"),  # TIE810
)
"""Text and form that stand in a file with a finding of these rules, whatever else is in it; text alone takes half."""

_TABLE = rb"[._\"'](?i:wte|wpe|emb|embed\w{0,40}|shared|tok_\w{1,40}|vocab_emb\w{0,40})(?:\(\)|[\"'])?(?![\w.(\[])"
_MADE = rb"\[[\s(]*(?:\w+\.)*[A-Z]\w*\("
AMONG = (
    (rb"weight\b(?<=[.\"']weight)",),  # TIE802, 806 to 809, 816, 817, and the ties that TIE810 and 811 ask for
    (rb"load_state_dict\(", rb"\.state_dict\(", rb"(?i)tie|tying|shar"),  # TIE802
    (rb"bias\b(?<=[.\"']bias)",),  # TIE816, 817
    (rb"Embedding\w*\(",),  # TIE801, by what is built
    (rb"=[\s(]*(?:getattr\()?\w[^\n=#(]*(?:\(\)[^\n=#(]*)*" + _TABLE,),  # the same, by its name
    (rb"setattr\(", _TABLE),
    (rb"_module\(", _TABLE),
    (rb"copy\(", rb"(?:share|tie)d?(?:_\w+)?\b"),  # TIE812
    (rb"clones\(",),  # TIE812, 818
    (rb"deepcopy\([\w.]+\)\s+for\b",),
    (rb"Transformer(?:En|De)coder\(",),
    (rb"\)\s*\]\s*\*", _MADE),  # TIE813
    (rb"\*\s*" + _MADE,),
)
"""The same for those of a file that has modules. First forms begin with plain text, for which `re` looks at once."""

FORMS = tuple((text, re.compile(form)) for text, form in ALONE), tuple(tuple(map(re.compile, some)) for some in AMONG)

THEIRS = re.compile(r"#\s*trf-ignore:\s*(TRF\d+)", re.IGNORECASE)
SAME_RULES = {"TRF048": "TIE803"}
"""Rule of transformers-mlinter 0.1.5 -> ours that finds the same; TRF004 finds any `tie_weights`, also a sound one."""

IGNORE = re.compile(r"#\s*tiecheck:\s*ignore(-file)?(?:\[([A-Za-z0-9, ]*)\])?")


def source_paths(path: str) -> list[str]:
    """Return the files to read of a file or directory, sorted; links to directories are not followed.

    A tree that is too large to be one project's is a `TargetError`, before any of it is read.
    """
    if not os.path.isdir(path):
        return [path]
    found: list[str] = []
    for seen, (folder, folders, names) in enumerate(folder_walk(path), 1):
        target_account().check_time()
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in LEFT_OUT)
        found += [os.path.join(folder, name) for name in sorted(names) if name.endswith(ENDINGS)]
        for count, what in ((seen, "folders"), (len(found), "Python files")):
            if count > FILES:
                way = "name the folder of your sources, or the directories of your models"
                raise TargetError(f"{path} holds more than {FILES:,} {what}; {way}", path)
    return found


def read_source(path: str, shown: str, *, named: bool = False) -> SourceFile | None:
    """Return the records of one file; None where it has nothing to do with ties, and nobody named it."""
    return parse_source(source_bytes(path, shown), shown, notebook=path.endswith(".ipynb"), named=named)


def source_bytes(path: str, shown: str) -> bytes:
    """Return what one file holds."""
    try:
        if not os.path.isfile(path):
            raise TargetError(f"{shown} is no plain file", shown)
        size = os.stat(path).st_size
        if size > DATA_BYTES:
            raise TargetError(f"{shown} has {size:,} bytes; a source of more than {DATA_BYTES:,} is not read", shown)
        with open(path, "rb") as stream:
            data = stream.read(DATA_BYTES)
    except OSError as error:
        raise TargetError(f"{shown} cannot be read: {error.strerror or error}", shown) from error
    target_account().take(READ, len(data), shown)
    return data


def may_tell(data: bytes) -> bool:
    """Tell whether a file's bytes may have anything to do with ties."""
    alone, among = FORMS
    if any(text in data and form.search(data) for text, form in alone):
        return True
    return any(word in data for word in WORDS) and any(all(form.search(data) for form in forms) for forms in among)


def parse_source(data: bytes, shown: str, *, notebook: bool = False, named: bool = False) -> SourceFile | None:
    """Return the records of a file's bytes; None where they have nothing to do with ties.

    `named` is for the one file that a user asked about, of which a fault is told whatever it holds.
    """
    if not named and not may_tell(re.sub(rb'\\n(?:",\s*")?|\\(?=")', _unescaped, data) if notebook else data):
        return None
    if len(data) > FILE_BYTES:
        raise TargetError(f"{shown} has {len(data):,} bytes; more than {FILE_BYTES:,} of a source are not read", shown)
    text = _notebook_text(data, shown) if notebook else _decoded(data, shown)
    try:
        with warnings.catch_warnings(), paused_collector():
            warnings.simplefilter("ignore")  # an invalid escape in somebody's text is not ours to tell
            if len(text) > CODE and sum(1 for _ in re.finditer(r"\w+|[^\w\s]", text)) > CODE:
                raise TargetError(f"{shown} has more than the {CODE:,} words and marks of code that are read", shown)
            found = read_tree(shown, text, ast.parse(text), tuple(_suppressions(text)))
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise TargetError(f"{shown} cannot be parsed: {where}{error.msg}", shown) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise TargetError(f"{shown} cannot be parsed: {type(error).__name__}: {error}", shown) from error
    for owner in found.classes:
        for method in owner.methods:
            holding = sum(event.kind not in ("build", "init", "retie") for event in method.events)
            if holding * len(method.events) > PAIRS:
                raise TargetError(
                    f"{shown}:{method.line}: {owner.name}.{method.name} shares and copies {holding:,} times, which is "
                    "too much to judge",
                    shown,
                )
    return found


def _decoded(data: bytes, shown: str) -> str:
    """Return a file's text by its own declaration of its encoding."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)  # a TextIOWrapper takes three times as long
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    except (SyntaxError, LookupError, UnicodeError) as error:
        raise TargetError(f"{shown} is no text in the encoding that it declares: {error}", shown) from error


def _notebook_text(data: bytes, shown: str) -> str:
    """Return the code cells of a notebook as one text, with magics and shell lines as comments."""
    try:
        cells = json.loads(data)["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TargetError(f"{shown} is no notebook: {type(error).__name__}: {error}", shown) from error
    return "\n".join(map(cell_code, texts))


def _unescaped(found: re.Match[bytes]) -> bytes:
    """Return what stands in code where a notebook has an escape."""
    return b"\n" if len(found[0]) > 1 else b""


def cell_code(text: str) -> str:
    """Return the text of a notebook's code cell as Python, line for line: magics and shell lines become comments."""
    return re.sub(r"(?m)^([^\S\n]*)([%!?])", r"\1pass  # \2", text)


def _suppressions(text: str) -> Iterator[tuple[int, tuple[str, ...], bool]]:
    """Yield line, codes and whether it is ours, of each `# tiecheck: ignore[TIE802] reason`; line 0 for `ignore-file`.

    A `# trf-ignore: TRF048` of transformers' own linter stands for the rule that is the same, on its line and, where it
    is alone there, for the next one.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if "trf-ignore" in line.lower() and (theirs := THEIRS.search(line)) and theirs[1].upper() in SAME_RULES:
            yield number + (not line[: theirs.start()].strip()), (SAME_RULES[theirs[1].upper()],), False
        if "tiecheck:" in line and (found := IGNORE.search(line)):
            codes = tuple(code.strip().upper() for code in (found[2] or "").split(",") if code.strip())
            yield (0 if found[1] else number), codes, True
