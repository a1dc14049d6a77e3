"""The fixture that builds a row of the zoo of ties."""

from __future__ import annotations

import pytest
from zoo_of_ties import Row


@pytest.fixture
def built(request, tmp_path):
    """The model of a row."""
    row: Row = request.param
    if not row.group:
        yield row, row.build()
        return
    from torch import distributed

    distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/rendezvous")
    yield row, row.build()
    distributed.destroy_process_group()
