"""A fix of Python files and notebooks: judged, edited, judged again until nothing more can be fixed, then written."""

from __future__ import annotations

import ast
import contextlib
import difflib
import io
import json
import os
import re
import tokenize
from importlib.util import find_spec

from tiecheck.config.options import Config
from tiecheck.engine.run import judge_facts
from tiecheck.errors import TargetError
from tiecheck.facts.registry import Facts
from tiecheck.files.local import path_inside
from tiecheck.fix.run import Ask, FixOptions, choose_edits, refuse_word
from tiecheck.records.edits import Edit, Step
from tiecheck.records.record import Record
from tiecheck.records.report import Finding
from tiecheck.records.source import SourceFile
from tiecheck.source.reading import cell_code, parse_source, source_bytes, source_paths
from tiecheck.targets.parse import Target

ROUNDS = 8
"""Times that a source is judged and edited: one fix may show what another had hidden."""

Chosen = tuple[tuple[Finding, Edit], ...]
Left = tuple[tuple[Finding, str], ...]


class SourceOutcome(Record):
    """The end of a fix of sources."""

    chosen: Chosen
    """The findings that are fixed, each with the alternative taken."""
    left: Left
    """The findings that stay, each with the reason."""
    diff: str
    """The change of every file, as a unified diff; empty where there is none."""
    written: bool
    """True where the new files are in place."""


def fix_sources(target: Target, config: Config, options: FixOptions, ask: Ask | None = None) -> SourceOutcome:
    """Fix one Python file or notebook, or all of a directory; or show what would be done.

    `ask` asks for a decision that is the user's; None leaves such findings. Where a file cannot be read, parsed or
    written, a `TargetError` says so and none is written.
    """
    if find_spec("libcst") is None:
        raise TargetError("a fix of sources needs libcst: pip install 'tiecheck[fix]'", target.text)
    files = _Files(target)
    chosen: list[tuple[Finding, Edit]] = []
    refused: dict[tuple[object, ...], str] = {}
    taken: Chosen = ()
    for number in range(ROUNDS + 1):
        found = files.judged(config)
        if number == ROUNDS:
            refused |= {_key(f): f"it is still found after {ROUNDS} edits" for f, _ in taken}
        taken, left = choose_edits([f for f in found if _key(f) not in refused], config, options, ask)
        if number == 0:  # what comes later may have other words
            refuse_word(options.choice, (*taken, *left))
        if not taken:
            break
        done, failed = files.edit(taken)
        chosen += done
        refused |= {_key(finding): reason for finding, reason in failed}
    said = tuple((f, refused[_key(f)]) for f in found if _key(f) in refused)
    written = options.apply and bool(files.changed)
    if written:
        files.write(backup=options.backup)
    return SourceOutcome(tuple(chosen), (*left, *said), files.diff(), written)


def _key(finding: Finding) -> tuple[object, ...]:
    """Return what tells a finding from others while lines move."""
    return finding.code, finding.names, finding.locations[0].path


class _Files:
    """The files of a target in memory, as they were and as they are edited."""

    def __init__(self, target: Target) -> None:
        """Read the files, or raise a `TargetError`."""
        self.target = target
        self.paths: dict[str, str] = {}
        self.old: dict[str, bytes] = {}
        for path in source_paths(target.path):
            shown = os.path.basename(path) if path == target.path else os.path.relpath(path, target.path)
            if os.path.islink(path) and path != target.path:
                path_inside(target.path, shown)
            self.paths[shown], self.old[shown] = path, source_bytes(path, shown)
        self.new = dict(self.old)
        named = not os.path.isdir(target.path)
        self.parsed = {shown: _parsed(shown, data, named=named) for shown, data in self.old.items()}

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the files that are no longer what they were."""
        return tuple(shown for shown, data in self.new.items() if data != self.old[shown])

    def judged(self, config: Config) -> tuple[Finding, ...]:
        """Return the findings on the files as they are now."""
        facts = Facts({"sources": tuple(filter(None, self.parsed.values())), "unread_sources": ()})
        return judge_facts(self.target, facts, config._replace(select=())).counted()

    def edit(self, taken: Chosen) -> tuple[Chosen, Left]:
        """Carry out edits, and return those that are done and those that could not be, with the reason."""
        done: list[tuple[Finding, Edit]] = []
        failed: list[tuple[Finding, str]] = []
        for shown in dict.fromkeys(f.locations[0].path for f, _ in taken):
            here = [(f, edit) for f, edit in taken if f.locations[0].path == shown]
            try:
                while missed := self._edit_file(shown, list(dict.fromkeys(s for _, edit in here for s in edit.steps))):
                    lost = [finding for finding, edit in here if missed & set(edit.steps)]
                    failed += [(f, "the line is written in a way that is not edited; it is yours to do") for f in lost]
                    here = [(finding, edit) for finding, edit in here if not missed & set(edit.steps)]
            except TargetError as error:
                failed += [(finding, str(error)) for finding, _ in here]
                continue
            done += here
        return tuple(done), tuple(failed)

    def _edit_file(self, shown: str, steps: list[Step]) -> set[Step]:
        """Carry out steps on a file (`TargetError`: none can be), or none and return those that have no place."""
        if os.path.islink(self.paths[shown]):
            raise TargetError(f"{shown} is a link, and what it leads to may be shared", shown)
        change = _edited_notebook if shown.endswith(".ipynb") else _edited_module
        data, missed = change(self.new[shown], steps, shown)
        if not missed:
            self.parsed[shown] = _parsed(shown, data)  # raises before anything is taken over
            self.new[shown] = data
        return missed

    def diff(self) -> str:
        """Return the change of all files."""
        lines: list[str] = []
        for shown in self.changed:
            old, new = (data[shown].decode("utf-8", "replace").splitlines() for data in (self.old, self.new))
            lines += difflib.unified_diff(old, new, f"a/{shown}", f"b/{shown}", lineterm="", n=2)
        return "\n".join(lines)

    def write(self, *, backup: bool) -> None:
        """Write the new files beside the old, then give them their names; none that has changed since it was read."""
        staged: dict[str, str] = {}
        try:
            for shown in self.changed:
                staged[shown] = _staged(self.paths[shown], self.new[shown])
            for shown in staged:
                if source_bytes(self.paths[shown], shown) != self.old[shown]:
                    raise TargetError(f"{shown} changed while it was fixed; nothing was written", shown)
            for shown, new in staged.items():
                if backup:
                    os.link(self.paths[shown], f"{self.paths[shown]}.orig")
                os.replace(new, self.paths[shown])
        except OSError as error:
            raise TargetError(
                f"{error.filename} cannot be written: {error.strerror or error}", self.target.text
            ) from error
        finally:
            for new in staged.values():
                if os.path.exists(new):
                    os.unlink(new)


def _staged(path: str, data: bytes) -> str:
    """Write a new file beside the old, with its mode, down to the disk."""
    if not os.access(path, os.W_OK) or not os.stat(path).st_mode & 0o222:
        raise TargetError(f"{path} cannot be written", path)
    new = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tiecheck")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)  # of a fix that was killed; or a link, which would lead us elsewhere
    with open(new, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fchmod(stream.fileno(), os.stat(path).st_mode & 0o7777)
        os.fsync(stream.fileno())
    return new


def _parsed(shown: str, data: bytes, *, named: bool = False) -> SourceFile | None:
    return parse_source(data, shown, notebook=shown.endswith(".ipynb"), named=named)


def _edited_module(data: bytes, steps: list[Step], shown: str) -> tuple[bytes, set[Step]]:
    """Return a Python file after some steps, in its own encoding, and the steps whose place is not there."""
    from tiecheck.fix.source_text import edited_text

    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    old = data.decode(encoding)
    text, missed = edited_text(old, steps, shown)
    return _without_unused(old, text).encode(encoding), set(missed)


def _without_unused(old: str, new: str) -> str:
    """Return a text without the imports that the edits have left unused, where each is all of its line."""
    trees = [ast.parse(text.removeprefix("\ufeff")) for text in (old, new)]
    before, after = ({one.id for one in ast.walk(tree) if isinstance(one, ast.Name)} for tree in trees)
    lines = new.splitlines(keepends=True)
    for node in reversed(trees[1].body if before - after else []):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and len(node.names) == 1:
            name = node.names[0].asname or node.names[0].name.partition(".")[0]
            if name in before - after and lines[node.lineno - 1].strip() == ast.unparse(node):
                del lines[node.lineno - 1]
    return "".join(lines)


def _edited_notebook(data: bytes, steps: list[Step], shown: str) -> tuple[bytes, set[Step]]:
    """Return a notebook after some steps, each in the cell of its line, and the steps whose place is not there.

    JSON that is not as Jupyter writes it is a `TargetError`, since more than the cells would change.
    """
    from tiecheck.fix.source_text import edited_text

    text = data.decode("utf-8")
    book = json.loads(text)
    layouts = ((indent, end) for indent in (1, 2, 4) for end in ("\n", ""))
    layout = next((one for one in layouts if _book_text(book, *one) == text), None)
    if layout is None:
        raise TargetError(f"{shown} is not laid out as Jupyter writes it, and would change as a whole", shown)
    missed, start = set(steps), 0
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        code = cell_code("".join(cell["source"]))
        lines = code.count("\n") + 1
        here = {s._replace(line=(s.line or 0) - start): s for s in steps if start < (s.line or 0) <= start + lines}
        if here:
            new, lost = edited_text(code, list(here), shown)
            new = re.sub(r"(?m)^(\s*)pass  # ([%!?])", r"\1\2", new)
            cell["source"] = new if isinstance(cell["source"], str) else new.splitlines(keepends=True)
            missed -= {here[step] for step in here if step not in lost}
        start += lines
    return _book_text(book, *layout).encode(), missed


def _book_text(book: object, indent: int, end: str) -> str:
    return json.dumps(book, indent=indent, ensure_ascii=False) + end
