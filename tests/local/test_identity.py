from __future__ import annotations

import re
from pathlib import Path

import pytest

from dbllm.local import LocalError
from dbllm.local.storage.identity import IDENTITY_FILE, identity, new_identity


def test_ids_have_the_shapes_of_databricks_and_differ_every_time() -> None:
    one, other = new_identity(), new_identity()
    assert re.fullmatch(r"\d{4}-\d{6}-[a-z0-9]{8}", one.cluster_id)
    assert re.fullmatch(r"\d{16}", one.workspace_id)
    assert re.fullmatch(r"dapi[0-9a-f]{32}", one.token)
    assert one.token != other.token


def test_the_repr_does_not_show_the_token() -> None:
    one = new_identity()
    assert one.token not in repr(one)


def test_a_folder_keeps_the_identity_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with identity(folder, None) as first:
        pass
    with identity(folder, None) as second:
        pass
    assert first == second
    assert (folder / IDENTITY_FILE).stat().st_mode & 0o777 == 0o600


def test_a_given_token_wins_and_is_not_kept(tmp_path: Path) -> None:
    with identity(tmp_path, "mine") as given:
        assert given.token == "mine"
    with identity(tmp_path, None) as kept:
        assert kept.token != "mine"
        assert kept.cluster_id == given.cluster_id
    assert "mine" not in (tmp_path / IDENTITY_FILE).read_text()


def test_a_second_workspace_on_the_same_folder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first, second = identity(tmp_path, None), identity(tmp_path, None)
    with first, pytest.raises(LocalError, match="Another workspace is running"):
        second.__enter__()
    with identity(tmp_path, None):
        pass


def test_a_broken_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / IDENTITY_FILE).write_text("{")
    with pytest.raises(LocalError, match=re.escape(str(tmp_path / IDENTITY_FILE))), identity(tmp_path, None):
        pass


def test_a_folder_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(LocalError, match="cannot be used"), identity(file, None):
        pass
