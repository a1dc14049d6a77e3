"""All pictures of a target."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.report import TargetReport
from tiecheck.render.device_lanes import device_lanes
from tiecheck.render.drawing import Picture
from tiecheck.render.loader_strip import loader_strip
from tiecheck.render.row_barcode import row_barcode
from tiecheck.render.tie_tree import tie_tree
from tiecheck.render.use_grid import use_grid


def target_pictures(target: TargetReport) -> Iterator[Picture]:
    """Yield the loader strip, a barcode for each group whose rows differ, tied modules, uses, and the device maps."""
    drawn = [loader_strip(target), *map(row_barcode, target.ties), tie_tree(target), use_grid(target)]
    if target.placement is not None:
        drawn.append(device_lanes(target.placement))
    yield from (picture for picture in drawn if picture is not None)
