"""Addresses that are refused before anything is fetched."""

from __future__ import annotations

import pytest

from tiecheck.config.options import Config
from tiecheck.errors import TargetError
from tiecheck.files.remote.reading import open_remote


@pytest.mark.parametrize(
    ("address", "options", "says"),
    [
        ("https://example.org:99999/m", {}, "no address that can be read"),
        ("https://example.org:0/m", {}, "it has no such port"),
        ("https://example.org/m/config.json", {}, "a config alone; name its directory"),
        ("https://example.org/m", {"revision": "v1"}, "is no model of the hub"),
        ("https://user:secret@example.org/m", {"offline": True}, "is not fetched (--offline)"),
    ],
)
def test_an_address_is_refused(address: str, options: dict, says: str) -> None:
    with pytest.raises(TargetError) as raised:
        open_remote(address, Config(**options))
    assert says in str(raised.value)
    assert "secret" not in str(raised.value)
