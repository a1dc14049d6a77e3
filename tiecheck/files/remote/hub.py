"""The model hub: what an address means there, the local cache, and files by their revision.

huggingface_hub says where the hub, the cache and the token are. Its client is not used: `HfApi` alone costs a quarter
of a second to import, and gives no ranges.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple, NoReturn
from urllib.parse import quote, unquote

from tiecheck.config.options import Config
from tiecheck.errors import TargetError, without_secrets
from tiecheck.files.checkpoint import INDEX_ENDING, parse_index, pick_weights_file
from tiecheck.files.local import parse_json, path_inside, read_bytes
from tiecheck.files.model_config import CONFIG_NAME
from tiecheck.files.remote.http import Answer, fetch_answer
from tiecheck.files.remote.store import FoundModel, TrafficMeter, target_meter
from tiecheck.files.remote.web_directory import WebStore

ADDRESS = re.compile(
    r"(?P<repo>[\w.-]+(/[\w.-]+)?)(@(?P<revision>refs/(pr|convert)/[\w.-]+|[^/@]+))?(/(?P<path>.+))?", re.ASCII
)
WEB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(tree|blob|resolve|raw)/(?P<revision>[^/]+)(/(?P<path>.+))?)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
HOSTS = ("https://huggingface.co/", "https://hf.co/", "https://www.huggingface.co/")

LISTING_LIMIT = 64 * 1024 * 1024
"""Bytes of the hub's answer about a model, which names each of its files."""


class HubAddress(NamedTuple):
    """A place on the hub."""

    repo: str
    revision: str | None
    path: str
    """A folder or file in it; empty for the root."""

    @property
    def label(self) -> str:
        """The address as messages give it."""
        at = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{at}{'/' if self.path else ''}{self.path}"


def hub_address(address: str) -> HubAddress | None:
    """Return the place that an address names on the hub; None for one that leads elsewhere.

    It is `hf://[models/]org/name[@revision][/path]`, or a page of the hub as a browser shows it.
    """
    from huggingface_hub import constants

    if address.startswith("hf://"):
        match = ADDRESS.fullmatch(
            re.split("[?#]", address)[0].removeprefix("hf://").removeprefix("models/").rstrip("/")
        )
    else:
        base = next((b for b in (f"{constants.ENDPOINT}/", *HOSTS) if address.startswith(b)), None)
        if base is None:
            return None
        match = WEB.fullmatch(address.removeprefix(base).partition("?")[0].partition("#")[0].rstrip("/"))
    found = HubAddress("", None, "") if match is None else _parts(match)
    if match is None or ".." in (found.revision or "") or ".." in found.path.split("/") or ".." in found.repo:
        label = without_secrets(address)
        raise TargetError(f"{label} names no model of the hub; write hf://org/name@revision/folder", label)
    if found.repo.partition("/")[0] in {"datasets", "spaces", "buckets", "kernels"}:
        raise TargetError(f"{without_secrets(address)} is no model", without_secrets(address))
    return found


def _parts(match: re.Match[str]) -> HubAddress:
    revision = match["revision"]
    return HubAddress(match["repo"], unquote(revision) if revision else None, match["path"] or "")


def open_hub(address: HubAddress, file: str, config: Config) -> FoundModel:
    """Find a model, or a file in its folder: in the cache where that is allowed to say so, else on the hub."""
    from huggingface_hub import constants

    if config.revision and address.revision and config.revision != address.revision:
        raise TargetError(f"{address.label} names a revision, and --revision names {config.revision}; give one of them")
    address = address._replace(revision=config.revision or address.revision)
    if ".." in (address.revision or "") or (address.revision or "").startswith("/"):
        raise TargetError(f"{address.revision!r} is no revision")
    revision = address.revision or "main"
    offline = config.offline or constants.HF_HUB_OFFLINE
    if offline or COMMIT.fullmatch(revision):
        local = snapshot_of(constants.HF_HUB_CACHE, address, revision, file, None)
        if not local.lacks:
            return FoundModel(None, file, local.path)
        if offline:
            why = "--offline" if config.offline else "HF_HUB_OFFLINE"
            raise TargetError(f"{address.label} is not fetched ({why}), and {local.lacks}")
    store = HubStore(address, constants.ENDPOINT, hub_token())
    local = snapshot_of(constants.HF_HUB_CACHE, address, store.commit, file, store.names())
    if not local.lacks:
        return FoundModel(store, file, local.path)
    return FoundModel(store, file)


def hub_token() -> str | None:
    """Return the user's token, by the library's own rules (`HF_TOKEN`, the token file, single sign-on ...)."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    try:
        return get_token()
    except Exception as error:
        raise TargetError(f"the hub's token cannot be had: {type(error).__name__}: {error}") from error


class HubStore(WebStore):
    """One folder of one revision of a model on the hub."""

    def __init__(self, address: HubAddress, endpoint: str, token: str | None) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._place = address
        self._endpoint = endpoint
        self._has_token = token is not None
        meter = target_meter()
        self.commit, files = self._about(headers, meter)
        folder = f"{address.path.strip('/')}/" if address.path else ""
        below = [name.removeprefix(folder) for name in files if name.startswith(folder)]
        self._names = frozenset(name for name in below if "/" not in name)
        if not below:
            raise TargetError(f"there is nothing in {address.label}", address.label)
        base = f"{endpoint}/{address.repo}/resolve/{self.commit}/{quote(folder)}"
        super().__init__(base, headers, address.label, meter)

    def names(self) -> Collection[str]:
        """Return the files right below the folder."""
        return self._names

    def _about(self, headers: Mapping[str, str], meter: TrafficMeter) -> tuple[str, list[str]]:
        """Return the commit and the files of the revision."""
        label = self._place.label
        url = (
            f"{self._endpoint}/api/models/{self._place.repo}/revision/{quote(self._place.revision or 'main', safe='')}"
        )
        answer = fetch_answer(
            f"{url}?expand=sha&expand=siblings", label, limit=LISTING_LIMIT, headers=headers, meter=meter
        )
        if answer.status != 200:
            self._refuse(answer, label)
        about = parse_json(answer.body, f"what the hub says of {label}", label)
        commit = about.get("sha") if isinstance(about, dict) else None
        files = about.get("siblings") if isinstance(about, dict) else None
        listed = isinstance(files, list) and all(isinstance(entry, dict) for entry in files)
        if not listed or not isinstance(files, list) or not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise TargetError(f"{self._endpoint} does not answer as a model hub does (HF_ENDPOINT)", label)
        return commit, [str(entry.get("rfilename", "")) for entry in files]

    def _refuse(self, answer: Answer, label: str) -> NoReturn:
        """Return one sentence for what the hub says no to."""
        raise TargetError(_denied(answer, self._place, self._endpoint, has_token=self._has_token), label)


def _denied(answer: Answer, place: HubAddress, endpoint: str, *, has_token: bool) -> str:
    code = answer.headers.get("x-error-code", "")
    said = answer.headers.get("x-error-message", "")
    model = f"{endpoint}/{place.repo}"
    token = "the token does not reach it" if has_token else "no token was given (HF_TOKEN)"
    if code == "GatedRepo":
        return f"{place.repo} is gated: ask for access on {model}; {token}"
    if code == "RevisionNotFound":
        return f"{place.repo} has no revision {place.revision or 'main'} on {endpoint}"
    if answer.status == 401 and "Invalid credentials" in said:
        return f"{endpoint} does not know the token (HF_TOKEN); log in again"
    if code == "RepoNotFound" or answer.status in {401, 404}:
        return f"there is no model {place.repo} on {endpoint}, or it is private and {token}"
    if answer.status == 429:
        return f"{endpoint} is busy (429): too many requests" + ("" if has_token else "; with a token more are allowed")
    more = f": {said[:200]}" if said else ""
    return f"{model} cannot be read: the hub answers with status {answer.status}{more}"


class Snapshot(NamedTuple):
    """A model in the cache."""

    path: str
    lacks: str
    """Reason why it will not do, as the end of a sentence; empty where it has all that is needed."""


def snapshot_of(cache: str, address: HubAddress, revision: str, file: str, names: Collection[str] | None) -> Snapshot:
    """Look a model up in the cache: one file that is wanted, or (empty) a model directory.

    `names` are the files of the folder, where the hub was asked; None to go by what the cache holds.
    """
    repo = os.path.join(cache, f"models--{address.repo.replace('/', '--')}")
    commit = revision
    try:
        with open(os.path.join(repo, "refs", revision), encoding="ascii") as ref:
            commit = ref.read(64).strip()
    except (OSError, ValueError):
        pass
    if not COMMIT.fullmatch(commit):
        return Snapshot("", f"revision {revision} is not in the hub's cache, {cache}")
    root = os.path.join(repo, "snapshots", commit, *filter(None, address.path.split("/")))
    if not os.path.isdir(root):
        return Snapshot(root, f"revision {revision} is not in the hub's cache, {cache}")
    missing = _missing(root, file, names)
    return Snapshot(os.path.join(root, file) if file else root, f"the hub's cache lacks {missing}" if missing else "")


def _missing(root: str, file: str, names: Collection[str] | None) -> str:
    """Return the first file that is needed and not there; empty where all are."""
    there = os.listdir(root)
    name = file or pick_weights_file(names if names is not None else there, root)
    if names is not None and CONFIG_NAME in names and CONFIG_NAME not in there:
        return CONFIG_NAME
    if name is None:
        return "" if names is not None else "the weights"
    if not os.path.exists(os.path.join(root, name)):
        return name
    if not name.endswith(INDEX_ENDING):
        return ""
    path = path_inside(root, name)
    try:
        _, shards = parse_index(read_bytes(path, path), path)
    except TargetError:
        return ""  # told when the directory is read
    return next((shard for shard in shards if not os.path.exists(os.path.join(root, shard))), "")
