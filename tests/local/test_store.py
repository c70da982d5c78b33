"""The state folder: what is kept, and that it can be read with its key only."""

from __future__ import annotations

import sqlite3
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from dbllm.local import LocalError
from dbllm.local.errors import Problem
from dbllm.local.storage.encryption import KEY_FILE as KEY_FILE
from dbllm.local.storage.encryption import VARIABLE, Vault, WrongKeyError, find_key
from dbllm.local.storage.store import STORE_FILE, Change, Store, opened

KEY = urlsafe_b64encode(bytes(range(32))).decode()


def keep(folder: Path, *changes: Change, **environ: str) -> dict[str, object]:
    with opened(folder, environ) as store:
        store.commit(*changes)
        return store.load("k")


def test_values_are_there_at_the_next_start_in_the_order_they_came(tmp_path: Path) -> None:
    keep(tmp_path, Change("k", "b", {"x": [1, "ü"]}), Change("k", "a", 2), Change("other", "a", 3))
    keep(tmp_path, Change("k", "b", "later"))
    assert list(keep(tmp_path).items()) == [("b", "later"), ("a", 2)]
    assert keep(tmp_path, Change("k", "b", None)) == {"a": 2}


def test_a_commit_is_all_or_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, {}) as store:
        with pytest.raises(TypeError):
            store.commit(Change("k", "a", 1), Change("k", "b", object()))
        assert store.load("k") == {}
        store.commit(Change("k", "a", 1))
        assert store.load("k") == {"a": 1}


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(None, {}) as store:
        store.commit(Change("k", "a", 1))
        assert store.load("k") == {"a": 1}
    assert list(tmp_path.iterdir()) == []


def test_no_value_can_be_read_in_the_files_and_only_their_owner_can_open_them(tmp_path: Path) -> None:
    with opened(tmp_path, {}) as store:
        store.commit(Change("secret", "s/k", "hunter2hunter2"))
        for path in tmp_path.iterdir():
            assert b"hunter2" not in path.read_bytes(), path.name
            assert path.stat().st_mode & 0o077 == 0, path.name


def test_the_key_may_be_in_the_environment_and_then_not_in_the_folder(tmp_path: Path) -> None:
    keep(tmp_path, Change("k", "a", 1), **{VARIABLE: KEY})
    assert not (tmp_path / KEY_FILE).exists()
    assert keep(tmp_path, **{VARIABLE: KEY}) == {"a": 1}


def test_another_key_is_refused_with_a_sentence(tmp_path: Path) -> None:
    keep(tmp_path, Change("k", "a", 1))
    with pytest.raises(LocalError, match="encrypted with another key"):
        keep(tmp_path, **{VARIABLE: KEY})
    assert keep(tmp_path) == {"a": 1}


def test_a_lost_key_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    keep(tmp_path, Change("k", "a", 1))
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(LocalError, match="its key is neither in DBLLM_STATE_KEY nor in"):
        keep(tmp_path)
    assert not (tmp_path / KEY_FILE).exists()


@pytest.mark.parametrize("text", ["short", KEY[:-4], "not base64 at all!", "ü" * 43])
def test_what_is_no_key_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(LocalError, match="32 bytes as URL-safe base64") as caught:
        find_key(tmp_path, {VARIABLE: text}, new=True)
    assert text not in str(caught.value)


def test_what_is_no_state_is_named(tmp_path: Path) -> None:
    (tmp_path / STORE_FILE).write_bytes(b"something else, " * 100)
    with pytest.raises(LocalError, match="is not the state of a workspace"):
        keep(tmp_path, **{VARIABLE: KEY})


def test_a_newer_state_is_left_alone(tmp_path: Path) -> None:
    keep(tmp_path)
    with sqlite3.connect(tmp_path / STORE_FILE) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(LocalError, match="written by a newer dbllm"):
        keep(tmp_path)


def test_a_change_that_cannot_be_saved_is_an_error_of_the_server(tmp_path: Path) -> None:
    store = Store()
    store.close()
    with pytest.raises(Problem, match="could not be saved") as caught:
        store.commit(Change("k", "a", 1))
    assert caught.value.status == 500


def test_a_sealed_value_opens_at_its_place_only() -> None:
    vault, other = Vault(bytes(32)), Vault(bytes(range(32)))
    sealed = vault.seal(b"value", "secret/a")
    assert vault.open(sealed, "secret/a") == b"value"
    assert vault.seal(b"value", "secret/a") != sealed
    for opener, text, place in ((other, sealed, "secret/a"), (vault, sealed, "secret/b"), (vault, b"", "secret/a")):
        with pytest.raises(WrongKeyError):
            opener.open(text, place)
    with pytest.raises(WrongKeyError):
        vault.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), "secret/a")
