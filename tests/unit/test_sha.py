"""Where SHA-256 comes from: CPython's own code where there is any, and the same hash either way."""

from __future__ import annotations

import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemtable.sha import _found, hashed, sha256


@given(st.binary(max_size=300))
def test_a_hash_is_that_of_hashlib(data: bytes) -> None:
    assert sha256(data).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("length", [0, 511, 512, 100_000])
def test_a_hash_of_any_length_is_that_of_hashlib(length: int) -> None:
    data = bytes(length)
    assert hashed(data) == hashlib.sha256(data).digest()


def test_nothing_is_looked_up_in_openssl_for_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty:
        copies = 0

        def copy(self) -> hashlib._Hash:
            self.copies += 1
            return openssl()

    def looks(*data: bytes) -> hashlib._Hash:
        raise AssertionError("which takes longer than the hash")

    openssl, empty = hashlib.sha256, Empty()
    monkeypatch.setattr("idemtable.sha._EMPTY", empty)
    monkeypatch.setattr(hashlib, "sha256", looks)
    assert len(sha256(bytes(100)).digest()) == len(hashed(bytes(511))) == 32
    assert empty.copies == 0
    assert len(hashed(bytes(512))) == 32
    assert empty.copies == 1


def test_what_is_hashed_leaves_nothing_to_the_next() -> None:
    assert len({hashed(bytes([number]) * 1000) for number in range(3)} | {hashed(bytes(1000))}) == 3


def test_a_python_without_hashes_of_its_own_takes_those_of_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_sha2", "_sha256"):
        monkeypatch.setitem(sys.modules, name, None)
    assert _found() is hashlib.sha256


def test_in_fips_mode_hashes_are_those_of_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("_hashlib.get_fips_mode", lambda: 1)
    assert _found() is hashlib.sha256


def test_a_python_without_openssl_has_hashes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_hashlib", None)
    assert _found()(b"k").digest() == sha256(b"k").digest()
