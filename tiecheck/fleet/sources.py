"""Sources of a fleet, each a stream of models: folders, globs, manifests, an organisation of the hub, fsspec URLs."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from glob import escape, has_magic, iglob

from tiecheck.errors import TargetError, UsageError
from tiecheck.files.limits import JSON_BYTES
from tiecheck.files.local import parse_json
from tiecheck.fleet.lines import MANIFESTS, read_lines
from tiecheck.fleet.listed import MANY, SIGNS, Listed, file_sort, value_digest
from tiecheck.targets.parse import FILE_ENDINGS, targets_below

NONE_READ: Mapping[str, tuple[int, ...]] = {}
"""Files that were opened, where none was."""

HUB_PAGE = 1000
"""Models that the hub is asked for at once, the most that it gives."""


def list_models(sources: Iterable[str]) -> Iterator[Listed]:
    """Give the models of some sources, one after another; nothing is kept.

    Args:
        sources: Directories, which are walked; globs; manifests; `hf://organisation`; addresses of stores that can
            list. Anything else is one model.

    Raises:
        TiecheckError: A store does not list, or a manifest cannot be read.
    """
    for source in sources:
        yield from _models_of(source)


def _models_of(source: str) -> Iterator[Listed]:
    if source.startswith("file://"):
        yield from _models_of(re.sub("^file://(localhost(?=/))?", "", source))
    elif os.path.isdir(source):
        yield from _walk(source)
    elif os.path.isfile(source) and source.endswith(MANIFESTS):
        yield from _manifest(source)
    elif source.startswith("hf://") and "/" not in source.removeprefix("hf://").rstrip("/"):
        yield from _organisation(source.removeprefix("hf://").rstrip("/"))
    elif "://" in source and not source.startswith(("hf://", "http://", "https://")):
        from tiecheck.fleet.stores import list_store

        yield from list_store(source)
    elif has_magic(source) and not os.path.lexists(source) and "://" not in source:
        yield from _matched(source)
    else:
        yield Listed(source)


def _matched(pattern: str) -> Iterator[Listed]:
    """Give what a glob matches, weights files and models in folders; nothing twice that is below a folder of it."""
    walked: set[str] = set()
    there = False
    for path in _paths(pattern):
        there = True
        folders = list(itertools.accumulate(path.rstrip("/").split("/"), "{}/{}".format))
        if not walked.isdisjoint(folders):
            continue
        if os.path.isdir(path):
            if "**" in pattern:  # else no match is below another
                walked.add(folders[-1])
            yield from _walk(path)
        elif path.endswith((*FILE_ENDINGS, ".gguf")):
            yield Listed(path)
    if not there:
        raise TargetError(f"nothing matches {pattern}", pattern)


def _paths(pattern: str) -> Iterator[str]:
    """Give what a glob matches as Python's `glob` does, but that `**` follows no links: two in a loop have no end."""
    parts = re.match(r"(.*?/|)\*\*(?:/|$)(.*)", pattern, re.DOTALL)
    if parts is None:
        yield from iglob(pattern)
        return
    base, rest = parts.groups()
    for top in iglob(base or "./"):
        if not rest:  # its folders are walked
            yield top
            continue
        for folder, below, _ in os.walk(top):
            below[:] = (name for name in below if name[0] != ".")
            yield from _paths(os.path.join(escape(folder), rest))


def _walk(folder: str) -> Iterator[Listed]:
    """Give each folder at or below one that holds a model: a config, an adapter or weights; below a model, both.

    So is one whose weights have a form that is not read: its check says which. Files of GGUF that no other model is
    beside are models themselves. Hidden folders are passed over, and links to folders are not followed. A folder that
    cannot be listed is given, so that its check says why.
    """
    waiting: list[Iterator[tuple[str, bool]]] = [iter(((folder, False),))]
    while waiting:
        folder, inside = next(waiting[-1], ("", False))
        if not folder:
            waiting.pop()
            continue
        try:
            below, sorts, files, plain = _listed(folder)
        except OSError:
            yield Listed(folder)
            continue
        if {"config", "weights"} <= sorts or (not inside and not sorts.isdisjoint(SIGNS)):
            names = frozenset([file.name for file in files]) if plain else None
            yield Listed(folder, None if plain else _mark(files), None, names)
            inside = True
        elif "gguf" in sorts and not inside:
            yield from map(Listed, targets_below(folder))
        if below:
            waiting.append(zip(below if len(below) <= MANY else _folders(folder), itertools.repeat(inside)))


def _listed(folder: str) -> tuple[list[str], set[str], list[os.DirEntry[str]], bool]:
    """Return the folders of one, sorts of files, the files that count, whether all is files; an `OSError` goes up."""
    sorts: set[str] = set()
    below: list[str] = []
    files: list[os.DirEntry[str]] = []
    plain = True
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                plain = False
                if entry.name[0] != "." and len(below) <= MANY:
                    below.append(entry.path)
            else:
                plain = plain and entry.is_file(follow_symlinks=False)
                sorts.add(file_sort(entry.name))
                if len(files) <= MANY:
                    files.append(entry)
    return below, sorts, files, plain and len(files) <= MANY


def _folders(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and entry.name[0] != ".":
                yield entry.path


def _manifest(path: str) -> Iterator[Listed]:
    """Give the targets of a file: a line each, or a JSON object a line whose `target` it is.

    Blank lines and those that begin with # are passed over; so are rows of an earlier run that are no model's. A line
    that cannot be read is an error of its own.
    """
    rows = path.endswith(".jsonl")
    try:
        for number, line in enumerate(read_lines(path), 1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise TargetError(f"{path} is UTF-16, and is read as UTF-8; save it so", path)
            first = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # a mark that editors put there
            text = first.decode("utf-8", "surrogateescape").strip()
            if not text or (text[0] == "#" and not rows):
                continue
            if not rows:
                yield Listed(text)
                continue
            try:
                row = json.loads(text)
                if isinstance(row, dict) and row.get("row", "model") != "model":
                    continue
                target = row if isinstance(row, str) else row["target"]
                if not isinstance(target, str) or not target:
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError):
                why = f'line {number} of {path} is no target: a JSON text, or an object with "target", is'
                yield Listed(f"{path}:{number}", None, why)
            else:
                yield Listed(target)
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror or error}", path) from error


def _organisation(name: str) -> Iterator[Listed]:
    """Give the models of an organisation of the hub, a page at a time; each with the commit of its main branch."""
    from huggingface_hub import constants

    from tiecheck.files.remote.http import fetch_answer
    from tiecheck.files.remote.hub import hub_token
    from tiecheck.files.remote.store import TrafficMeter

    label = f"hf://{name}"
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UsageError(f"{label} names no organisation of the hub")
    if constants.HF_HUB_OFFLINE:
        raise TargetError(f"{label} is not listed (HF_HUB_OFFLINE)", label)
    token = hub_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    url: str | None = f"{constants.ENDPOINT}/api/models?author={name}&limit={HUB_PAGE}&expand=sha"
    seen = False
    while url:
        answer = fetch_answer(url, label, limit=JSON_BYTES, headers=headers, meter=TrafficMeter())
        if answer.status != 200:
            raise TargetError(f"{label} cannot be listed: the hub answers with status {answer.status}", label)
        page = parse_json(answer.body, f"the hub's list of {label}", label)
        if not isinstance(page, list) or not all(isinstance(entry, dict) and "id" in entry for entry in page):
            raise TargetError(f"{constants.ENDPOINT} does not answer as a model hub does (HF_ENDPOINT)", label)
        seen = seen or bool(page)
        for entry in page:
            yield Listed(f"hf://{entry['id']}", entry.get("sha"))
        url = _next_page(answer.headers.get("link", ""), constants.ENDPOINT, label)
    if not seen:
        raise TargetError(f"there is no model of {label} that can be seen", label)


def _next_page(link: str, endpoint: str, label: str) -> str | None:
    """Return the address of the next page by `Link: <...>; rel="next"`; None where this was the last."""
    address, mark, rest = link.partition(">")
    if not mark or 'rel="next"' not in rest:
        return None
    url = address.strip().removeprefix("<")
    if not url.startswith(f"{endpoint}/"):
        raise TargetError(f"{label} cannot be listed: its next page is on another server", label)
    return url


def folder_mark(path: str) -> str | None:
    """Return a mark of a local target by the names, sizes and times of its files; None where it cannot be looked at."""
    try:
        if not os.path.isdir(path):
            status = os.stat(path)
            return value_digest((status.st_size, status.st_mtime_ns))
        with os.scandir(path) as entries:
            return _mark(itertools.islice((e for e in entries if not e.is_dir(follow_symlinks=False)), MANY + 1))
    except (OSError, ValueError):  # a name with a NUL in it
        return None


def current_mark(model: Listed, read: Mapping[str, tuple[int, ...]] = NONE_READ) -> str | None:
    """Return the mark of a model as its source gave it, or as its files have it now.

    `read` has what was seen of those that were opened (`Account.files`): of these it is the mark of what was judged.
    """
    if model.mark is not None or "://" in model.target:
        return model.mark
    if model.names is None:
        return folder_mark(model.target)
    found = []
    try:
        for name in model.names:
            path = f"{model.target}{os.sep}{name}"
            if (seen := read.get(path)) is None:
                status = os.stat(path)
                seen = (0, 0, status.st_size, status.st_mtime_ns)
            found.append((name, seen[2], seen[3]))
    except OSError:
        return None
    return value_digest(sorted(found))


def _mark(files: Iterable[os.DirEntry[str]]) -> str | None:
    found = []
    try:
        for entry in files:
            status = entry.stat()
            found.append((entry.name, status.st_size, status.st_mtime_ns))
    except OSError:  # gone, or a link that leads nowhere
        return None
    return value_digest(sorted(found))
