"""The table of a fleet: as JSON lines and as Parquet, queried by DuckDB, and two of them side by side."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from fleets import EMBEDDING, drawn_fleet, rows_of, run_fleet, write_model

from tiecheck.errors import TargetError
from tiecheck.fleet import parquet
from tiecheck.fleet.results import Results, compare_tables, read_row_groups

DOC = Path(__file__).parents[2] / "docs" / "fleet.md"


def test_parquet_holds_what_the_lines_hold(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH", 7)
    drawn_fleet(tmp_path / "fleet", 30, seed=41)
    write_model(tmp_path / "fleet" / os.fsdecode(b"no UTF-8 \xff\n"), {EMBEDDING: bytes(128)})
    for name in ("out.jsonl", "out.parquet"):
        found = run_fleet(tmp_path / "fleet", models, results=tmp_path / name)
        assert found.problem is None
    assert list(read_row_groups(str(tmp_path / "out.parquet"))) == list(read_row_groups(str(tmp_path / "out.jsonl")))
    again = run_fleet(tmp_path / "fleet", models, results=tmp_path / "out.parquet", resume=True).summary
    assert (again.run.judged, again.run.skipped) == (0, again.run.listed)
    assert compare_tables(str(tmp_path / "out.parquet"), str(tmp_path / "out.jsonl")).equal
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet", "out.jsonl", "out.parquet"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_a_table_that_another_run_writes_is_refused(tmp_path: Path, tiecheck_cli, name: str) -> None:
    drawn_fleet(tmp_path / "fleet", 3, seed=46)
    table = str(tmp_path / name)
    command = ("fleet", str(tmp_path / "fleet"), "--results", table)
    first = Results(table, "", resume=False)
    for more in ((), ("--resume",)):
        found = tiecheck_cli(*command, *more)
        assert found.exit_code == 2
        assert "is being written by another run" in found.stderr
    first.close()
    assert tiecheck_cli(*command).exit_code == 2  # it is there now, and nobody said to go on with it
    assert tiecheck_cli(*command, "--resume").exit_code == 0
    assert len({row["target"] for rows in read_row_groups(table) for row in rows}) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet", name]


def test_the_queries_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    truth = drawn_fleet(tmp_path / "fleet", 60, seed=42)
    run_fleet(tmp_path / "fleet", results=tmp_path / "out.parquet")
    monkeypatch.chdir(tmp_path)
    queries = re.findall(r"```sql\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert len(queries) >= 3
    lost = sum("TIE102" in codes for codes in truth.values())
    failing, loaders, _ = (duckdb.sql(query).fetchall() for query in queries[:3])
    assert sum(count for *_, count in failing) == sum(map(bool, truth.values()))
    assert "transformers 5" in dict(loaders)
    assert {code: count for code, _, count in failing}["TIE102"] == lost


def test_two_tables_side_by_side(tmp_path: Path, tiecheck_cli) -> None:
    truth = drawn_fleet(tmp_path / "fleet", 40, seed=43)
    before, after = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    run_fleet(tmp_path / "fleet", results=before)
    assert compare_tables(str(before), str(before)).equal
    healthy = next(target for target, codes in truth.items() if not codes)
    broken = next(target for target, codes in truth.items() if codes == {"TIE101"})
    other = next(target for target, codes in truth.items() if codes == {"TIE101"} and target != broken)
    shutil.rmtree(other)
    write_model(Path(other), {EMBEDDING: bytes(range(128))}, tie_word_embeddings=False)
    gone = next(target for target in truth if target not in {healthy, broken, other})
    (Path(healthy) / "config.json").write_text("{")
    config = json.loads((Path(broken) / "config.json").read_text())
    (Path(broken) / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    Path(gone).rename(tmp_path / "fleet" / "new")
    run_fleet(tmp_path / "fleet", results=after)
    found = compare_tables(str(before), str(after))
    changes = {change.target: tuple(change)[1:] for change in found.changed}
    assert changes == {
        other: ("fail", "fail", ("TIE102",), ("TIE101",)),
        healthy: ("pass", "error", (), ()),
        broken: ("fail", "pass", (), ("TIE101",)),
    }
    assert compare_tables(str(after), str(before)).changed[0].after == "fail"  # broken the other way round
    assert (found.new, found.gone, found.same) == ((str(tmp_path / "fleet" / "new"),), (gone,), 36)
    shown = tiecheck_cli("fleet", "compare", str(before), str(after))
    assert (shown.exit_code, "fail -> pass" in shown.stdout) == (1, True)
    assert tiecheck_cli("fleet", "compare", str(before), str(before), "-f", "json").exit_code == 0
    assert tiecheck_cli("fleet", "compare", str(before)).exit_code == 2
    assert tiecheck_cli("fleet", "compare", str(before), str(tmp_path / "none.jsonl")).exit_code == 2


def test_a_model_of_two_sources_is_one_of_a_comparison(tmp_path: Path) -> None:
    truth = drawn_fleet(tmp_path / "fleet", 20, seed=47)
    twice, once = tmp_path / "twice.jsonl", tmp_path / "once.jsonl"
    run_fleet(tmp_path / "fleet", tmp_path / "fleet" / "0", results=twice)
    run_fleet(tmp_path / "fleet", results=once)
    for tables in ((twice, twice), (twice, once), (once, twice)):
        found = compare_tables(*map(str, tables))
        assert (found.equal, found.same, found.new, found.gone) == (True, len(truth), (), ())
    assert run_fleet(tmp_path / "fleet", results=twice, resume=True).summary.status["pass"] < len(truth)
    assert len(rows_of(twice)) == len(truth)


def test_what_is_no_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"target": "x"}\n')
    with pytest.raises(TargetError, match="is no table of a fleet"):
        list(read_row_groups(str(tmp_path / "a.jsonl")))


def test_without_pyarrow_it_is_told(tmp_path: Path, tiecheck_cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "find_spec", lambda _: None)
    drawn_fleet(tmp_path / "fleet", 2, seed=44)
    found = tiecheck_cli("fleet", str(tmp_path / "fleet"), "--results", str(tmp_path / "out.parquet"))
    assert (found.exit_code, "pip install 'tiecheck[fleet]'" in found.stderr) == (2, True)
    assert not (tmp_path / "out.parquet.partial").exists()
