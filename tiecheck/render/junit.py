"""JUnit: a suite a target, a case for each rule that ran, each finding, each skip and each error."""

from __future__ import annotations

from typing import TextIO
from xml.etree import ElementTree as ET

from tiecheck.errors import escaped
from tiecheck.records.report import Report, TargetReport, at_least
from tiecheck.render.findings import fix_sentence
from tiecheck.render.reports import Style


def render(report: Report, style: Style, stream: TextIO) -> None:
    """Write the report; a finding below `--fail-on` is a case that passes, with its words as output."""
    suites = ET.Element("testsuites", name="tiecheck", time=f"{report.seconds:.3f}")
    for target in report.targets:
        suites.append(_suite(target, style))
    for key in ("tests", "failures", "errors", "skipped"):
        suites.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    ET.indent(suites)
    stream.write(f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suites, encoding="unicode")}\n')


def _suite(target: TargetReport, style: Style) -> ET.Element:
    name = escaped(target.target)
    suite = ET.Element("testsuite", name=name)
    found = target.counted()
    for finding in found:
        case = ET.SubElement(suite, "testcase", classname=name, name=f"{finding.code} {finding.name}")
        text = f"{escaped(finding.message)}\n\n{escaped(fix_sentence(finding))}"
        if at_least((finding,), style.fail_on):
            failure = ET.SubElement(case, "failure", message=escaped(finding.message), type=finding.severity)
            failure.text = text
        else:
            ET.SubElement(case, "system-out").text = text
    for code in sorted({*target.rules_run} - {finding.code for finding in found}):
        ET.SubElement(suite, "testcase", classname=name, name=code)
    for skip in target.skips:
        case = ET.SubElement(suite, "testcase", classname=name, name=f"{skip.code} {skip.name}")
        ET.SubElement(case, "skipped", message=escaped(skip.reason))
    for error in target.errors:
        case = ET.SubElement(suite, "testcase", classname=name, name=error.code or "tiecheck")
        ET.SubElement(case, "error", message=escaped(error.message))
    suite.set("tests", str(len(suite)))
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(len(suite.findall(f"testcase/{tag}"))))
    return suite
