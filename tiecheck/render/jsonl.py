"""The JSON report a line a target, and a last line with the summary: for many targets, read one by one."""

from __future__ import annotations

import json
from typing import TextIO

from tiecheck.records.report import Report
from tiecheck.render.json import SCHEMA, json_document
from tiecheck.render.reports import Style


def render(report: Report, style: Style, stream: TextIO) -> None:  # noqa: ARG001  # one signature for all formats
    """Write the report; each line names the contract, and has `target` or `summary` in the shape of the schema."""
    document = json_document(report)
    rows = [*({"target": target} for target in document["targets"]), {"summary": document["summary"]}]
    stream.writelines(json.dumps({"schema": SCHEMA, "version": report.version} | row) + "\n" for row in rows)
