from __future__ import annotations

from pathlib import Path

import pytest

from exporters.access.access import open_access


def test_a_token_file_that_is_not_there_is_said_with_what_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"

    with pytest.raises(
        ValueError, match=r"tokens\.json is not there; make it with `trainvitals token create"
    ):
        open_access(tmp_path, token_file=path)


def test_a_file_that_will_not_do_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "scrape").write_text("")

    with pytest.raises(ValueError, match="scrape holds no token: one line of 16 to 200 characters"):
        open_access(tmp_path, scrape_token_file=tmp_path / "scrape")


def test_an_open_local_token_is_said_at_the_start(tmp_path: Path) -> None:
    open_access(tmp_path).close()
    (tmp_path / "local-token").chmod(0o644)

    with pytest.raises(
        ValueError, match=r"local-token is open to others \(mode 0644\); close it with chmod 600"
    ):
        open_access(tmp_path)


def test_a_service_answers_to_the_name_it_was_told_to_listen_on(tmp_path: Path) -> None:
    access = open_access(tmp_path, listening="192.0.2.1", hosts=["node-7", "monitor.example"])

    for name in ("192.0.2.1:8003", "node-7:8003", "monitor.example"):
        assert access.hosts.include(name)
    access.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match="Not a directory"):
        open_access(tmp_path / "file" / "state")
