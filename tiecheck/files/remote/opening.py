"""From an address to the store behind it."""

from __future__ import annotations

from urllib.parse import urlsplit

from tiecheck.config.options import Config
from tiecheck.errors import TargetError
from tiecheck.files.remote.hub import hub_address, open_hub
from tiecheck.files.remote.store import Found, Store
from tiecheck.targets.parse import FILE_ENDINGS, without_secrets

ENDINGS = (*FILE_ENDINGS, ".gguf", ".onnx")


def open_remote(address: str, config: Config) -> Found:
    """The store behind an address, or the local place where the hub's cache has all of it.

    Args:
        address: `scheme://...`.
        config: Says which revision of a hub model, and whether anything may be fetched.

    Raises:
        TargetError: There is nothing there, or it may not be read.
        MissingExtraError: The library that reads such addresses is not installed.
    """
    _check(address)
    hub = hub_address(address) if address.startswith(("hf://", "http://", "https://")) else None
    label = without_secrets(address)
    if hub is not None:
        folder, file = _split(hub.path)
        return open_hub(hub._replace(path=folder), file, config)
    if config.revision:
        raise TargetError(f"{label} is no model of the hub, and --revision names a revision of one", label)
    if config.offline:
        raise TargetError(f"{label} is not fetched (--offline)", label)
    base, mark, query = address.partition("?")
    folder, file = _split(base)
    return Found(_store(folder + mark + query), file)


def _check(address: str) -> None:
    """Refuse an address that cannot be one, and a config alone."""
    label = without_secrets(address)
    try:
        port = urlsplit(address).port
    except ValueError as error:
        raise TargetError(f"{label} is no address that can be read: {error}", label) from error
    if port == 0:
        raise TargetError(f"{label} is no address that can be read: it has no such port", label)
    if label.endswith("/config.json"):
        raise TargetError(f"{label} is a config alone; name its directory", label)


def _store(address: str) -> Store:
    if address.startswith(("http://", "https://")):
        from tiecheck.files.remote.web_directory import WebStore

        return WebStore(address)
    from tiecheck.files.remote.fsspec_store import FsspecStore

    return FsspecStore(address)


def _split(path: str) -> tuple[str, str]:
    """Folder and file of a path that ends like a file; the folder alone of any other."""
    if not path.endswith(ENDINGS):
        return path.rstrip("/"), ""
    folder, _, file = path.rpartition("/")
    return folder, file
