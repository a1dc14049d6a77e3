"""`config.json`: what is no config is told in one sentence, and each flag is found where it stands."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiecheck.errors import TargetError
from tiecheck.files.model_config import FLAG_KEYS, FLAG_LIMIT, _find_flags, _flat_keys, _walk_keys, read_config
from tiecheck.records.declared import Flag

KEY = "tie_word_embeddings"


def flags(text: str) -> tuple[Flag, ...]:
    return _find_flags(text.encode(), json.loads(text))


def places(text: str) -> list[tuple[str, object, int, int]]:
    return [(flag.dotted, flag.value, flag.line, flag.column) for flag in flags(text)]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"[]", "holds a list, not the JSON object a config is"),
        (b'"x"', "holds a string"),
        (b"null", "holds null"),
        (b"3", "holds a number or a truth value"),
        (b"true", "holds a number or a truth value"),
        (b"", "is not valid JSON: Expecting value at line 1, column 1"),
        (b"{", "is not valid JSON"),
        (b'{"a": 1}\n}', "is not valid JSON: Extra data at line 2, column 1"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark, which loaders refuse"),
        (json.dumps({KEY: True}).encode("utf-16"), "is not UTF-8 text"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested too deeply"),
        (b'{"text_config": {"tie_word_embeddings": fa', "is not valid JSON"),
    ],
)
def test_bad_config_is_told_by_file_and_cause(tmp_path: Path, raw: bytes, says: str) -> None:
    (tmp_path / "config.json").write_bytes(raw)
    with pytest.raises(TargetError, match=f"^{tmp_path}/config.json {says}") as caught:
        read_config(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_deep_config_is_read_or_refused_and_never_a_crash(tmp_path: Path) -> None:
    for depth in (100, 1000, 5000):
        (tmp_path / "config.json").write_text('{"a": ' * depth + f'{{"{KEY}": true}}' + "}" * depth)
        try:
            config = read_config(str(tmp_path))
        except TargetError as error:
            assert "nested too deeply" in str(error)  # noqa: PT017  # either is right, by the Python that runs it
        else:
            assert config is not None
            assert len(config.flags[0].level) == depth


def test_no_config_is_none(tmp_path: Path) -> None:
    assert read_config(str(tmp_path)) is None


def test_directory_and_pipe_are_refused(tmp_path: Path) -> None:
    for name, make in (("folder", Path.mkdir), ("pipe", os.mkfifo)):
        (tmp_path / name).mkdir()
        make(tmp_path / name / "config.json")
        with pytest.raises(TargetError, match=r"config\.json is a (folder|pipe)"):
            read_config(str(tmp_path / name))


def test_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("gone.json")
    with pytest.raises(TargetError, match=r"config\.json cannot be read: No such file"):
        read_config(str(tmp_path))


def test_huge_config_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(40 * 1024 * 1024)
    with pytest.raises(TargetError, match="more than the 33,554,432 that are read"):
        read_config(str(tmp_path))


class TestFlags:
    def test_line_and_column_at_every_level(self) -> None:
        text = '{\n  "a": 1,\n  "text_config": {"x": [1, {}],\n    "tie_word_embeddings": false},\n"weight_tying":true}'
        assert places(text) == [("text_config.tie_word_embeddings", False, 4, 5), ("weight_tying", True, 5, 1)]

    def test_columns_count_characters_and_not_bytes(self) -> None:
        assert places('{"h\u00e4\U0001f600": 1, "tie_word_embeddings": true}') == [(KEY, True, 1, 12)]

    def test_windows_line_ends(self) -> None:
        assert places('{\r\n "a": 1,\r\n "tie_word_embeddings": true\r\n}') == [(KEY, True, 3, 2)]

    def test_key_in_a_string_is_no_key(self) -> None:
        assert places('{"note": "\\"tie_word_embeddings\\": true", "x": "tie_word_embeddings"}') == []

    def test_brackets_in_a_string_are_no_levels(self) -> None:
        assert places('{"note": "}{][,:", "tie_word_embeddings": true}') == [(KEY, True, 1, 20)]

    def test_escaped_key_is_the_key(self) -> None:
        assert places('{"tie\\u005fword_embeddings": false}') == [(KEY, False, 1, 2)]

    def test_escaped_level_is_the_level(self) -> None:
        assert places('{"text\\u005fconfig": {"tie_word_embeddings": false}}') == [(f"text_config.{KEY}", False, 1, 23)]

    def test_of_a_repeated_key_the_last_counts(self) -> None:
        assert places('{"tie_word_embeddings": true,\n"tie_word_embeddings": false}') == [(KEY, False, 2, 1)]

    def test_of_a_repeated_level_the_last_counts(self) -> None:
        text = '{"text_config": {"tie_word_embeddings": true},\n"text_config": {"tie_word_embeddings": false}}'
        assert places(text) == [(f"text_config.{KEY}", False, 2, 17)]
        assert places('{"text_config": {"tie_word_embeddings": true}, "text_config": {}}') == []

    def test_empty_key_is_a_level(self) -> None:
        assert [flag.level for flag in flags('{"": {"tie_word_embeddings": true}}')] == [("",)]

    def test_keys_in_lists_are_left_out(self) -> None:
        assert places('{"a": [{"tie_word_embeddings": true}], "b": [[{"weight_tying": 1}]]}') == []

    @pytest.mark.parametrize("value", ["true", None, 1, 0, 1.5, [], {"a": 1}, "", [True]])
    def test_value_is_what_json_says(self, value: object) -> None:
        (flag,) = flags(json.dumps({KEY: value}))
        assert flag.value == value
        assert type(flag.value) is type(value)

    def test_config_with_very_many_flags_is_refused_soon(self) -> None:
        text = "{" + ",".join(f'"{i}": {{"{KEY}": true}}' for i in range(FLAG_LIMIT + 1)) + "}"
        begin = time.process_time()
        with pytest.raises(TargetError, match="more than 10,000 times"):
            flags(text)
        assert time.process_time() - begin < 5

    def test_long_strings_do_not_slow_the_search(self) -> None:
        text = json.dumps({"template": '\\"{' * 1_000_000, KEY: True})
        begin = time.process_time()
        assert len(flags(text)) == 1
        assert time.process_time() - begin < 5


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.just(KEY)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=3), st.just(KEY), st.just("weight_tying")), inner, max_size=4),
    ),
    max_leaves=12,
)


def expected(data: object, level: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """The flags of a parsed config, by a plain recursion."""
    found: dict[tuple[str, ...], object] = {}
    if isinstance(data, dict):
        for key, value in data.items():
            if key in (KEY, "weight_tying"):
                found[*level, key] = value
            found.update(expected(value, (*level, key)))
    return found


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.one_of(st.text(max_size=3), st.just(KEY)), JSON, max_size=5), st.booleans(), st.booleans())
def test_flags_are_those_of_the_parsed_object_and_stand_where_they_are_said_to(data, ascii_only, indented) -> None:
    text = json.dumps(data, ensure_ascii=ascii_only, indent=1 if indented else None)
    found = flags(text)
    assert {(*f.level, f.key): f.value for f in found} == expected(data)
    lines = text.split("\n")
    for flag in found:
        assert lines[flag.line - 1][flag.column - 1 :].startswith(f'"{flag.key}"')


WORDS = st.sampled_from([*FLAG_KEYS, "a", 'quoted"', "text_config"])


@settings(max_examples=300)
@given(st.dictionaries(WORDS, st.booleans() | WORDS | st.dictionaries(WORDS, st.booleans() | WORDS), max_size=4))
def test_the_flags_of_a_flat_config_are_where_the_tokens_say(config: dict[str, object]) -> None:
    text = json.dumps(config, indent=2)
    assert _flat_keys(text, config) in ([], list(_walk_keys(text)))


def test_a_flat_config_needs_no_tokens() -> None:
    assert _flat_keys('{"a": 1, "tie_word_embeddings": true}', {"a": 1, KEY: True}) == [((KEY,), 9)]
