"""The header field: what the draft says, what clients send, and what is refused before anything is done."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idemtable import InvalidKeyError
from idemtable.web.field import PATTERNS, Syntax, key_of

UUID = "8e03978e-40d5-43e8-bc93-6894a57f9324"


@pytest.mark.parametrize("syntax", ["lenient", "strict"])
@pytest.mark.parametrize(
    ("line", "key"),
    [(f'"{UUID}"', UUID), ('"a";x=1', "a"), (' "a" ', "a"), ('"a b"', "a b"), (r'"a\"b\\"', 'a"b\\'), ('"K"', "K")],
)
def test_a_string_in_quotes_is_the_key_without_its_parameters(syntax: str, line: str, key: str) -> None:
    assert key_of([line], syntax) == key  # type: ignore[arg-type]


def test_no_header_is_no_key() -> None:
    assert key_of([], "strict") is None


@pytest.mark.parametrize("line", [UUID, "abc", ":aGk=:", "?1", "@1659578233", "7", "a;x=1", "Key", "key"])
def test_the_bare_text_is_the_key_in_the_lenient_syntax_only(line: str) -> None:
    assert key_of([line], "lenient") == line
    with pytest.raises(InvalidKeyError, match="String of RFC 9651"):
        key_of([line], "strict")


@pytest.mark.parametrize("syntax", ["lenient", "strict"])
@pytest.mark.parametrize(
    "lines",
    [
        [""], ["  "], ['""'], ['"  "'], ['"a"', '"b"'], ["a", "a"], ['"a", "b"'], ["a, b"], ["a b"], ['a"b'], ['"a'],
        ['%"f%c3%bc"'], ["é"], ['"é"'], ["a\x00b"], ['"a\x00b"'], ["a\x7f"], ["x" * 256], [f'"{"x" * 256}"'],
        [f'"{"x" * 10_000_000}"'], ["x" * 10_000_000],
    ],
    ids=lambda lines: repr(lines)[:20],
)  # fmt: skip
def test_what_is_no_key_is_refused_without_repeating_it(syntax: str, lines: list[str]) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        key_of(lines, syntax)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 120
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "syntaxes", "cure"),
    [
        (["a", "a"], ["lenient", "strict"], "send it in one header"),
        (["a b"], ["lenient", "strict"], "send it in double quotes"),
        (["a,b"], ["lenient", "strict"], "send it in double quotes"),
        (['a"b'], ["lenient", "strict"], "send it in double quotes"),
        (['"a'], ["lenient", "strict"], "send it in double quotes"),
        (['"a", "b"'], ["lenient", "strict"], "as one String"),
        (["abc"], ["strict"], "send it in double quotes"),
        (["7"], ["strict"], "send it in double quotes"),
        (["é"], ["lenient", "strict"], "consist of ASCII characters"),
        (['"é"'], ["lenient", "strict"], "consist of ASCII characters"),
        (['"a\x00b"'], ["lenient", "strict"], "without control characters"),
        (["a\x00b"], ["lenient", "strict"], "without control characters"),
        (['""'], ["lenient", "strict"], "text of 1 to 255 bytes"),
        ([f'"{"x" * 256}"'], ["lenient", "strict"], "text of 1 to 255 bytes"),
    ],
    ids=lambda given: repr(given)[:20],
)
def test_a_client_is_told_what_to_do_about_its_key(lines: list[str], syntaxes: list[Syntax], cure: str) -> None:
    for syntax in syntaxes:
        with pytest.raises(InvalidKeyError) as caught:
            key_of(lines, syntax)
        assert cure in caught.value.detail


def test_the_longest_key_is_255_characters_however_it_is_written() -> None:
    assert key_of(["x" * 255], "lenient") == "x" * 255
    assert key_of(['"' + r"\"" * 255 + '"'], "strict") == '"' * 255


@pytest.mark.parametrize("syntax", ["lenient", "strict"])
def test_what_fits_the_pattern_that_openapi_shows_is_a_key(syntax: Syntax) -> None:
    # How fast a machine makes them up is no part of it.
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.from_regex(PATTERNS[syntax].replace("$", r"\Z")))
    def fits(line: str) -> None:
        key = key_of([line], syntax)
        assert key is not None
        assert 1 <= len(key) <= 255

    fits()


@pytest.mark.parametrize("line", [f'"{UUID}"', '"a b"', r'"a\"b\\"', '"' + r"\"" * 255 + '"'])
def test_keys_in_quotes_fit_both_patterns_and_bare_ones_the_lenient(line: str) -> None:
    assert re.search(PATTERNS["strict"], line)
    assert re.search(PATTERNS["lenient"], line)
    assert re.search(PATTERNS["lenient"], UUID)
    assert not re.search(PATTERNS["strict"], UUID)


@pytest.mark.parametrize("line", ["", '""', '" "', "é", "a,b", 'a"b', "a b", "x" * 256, f'"{"x" * 256}"'])
def test_what_is_no_key_fits_no_pattern(line: str) -> None:
    for pattern in PATTERNS.values():
        assert not re.search(pattern, line)
