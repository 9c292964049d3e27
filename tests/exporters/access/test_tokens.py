from __future__ import annotations

import json
import multiprocessing
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exporters.access.roles import Role
from exporters.access.tokens import (
    TokenFile,
    make_local_token,
    parse_entries,
    read_local_token,
    read_token,
    sha256_of,
)
from tests.exporters.access.guarded import now


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens.json", now=now)


def test_a_file_of_tokens_holds_none(file: TokenFile) -> None:
    entry, token = file.create("ci", Role.operator)

    assert token.startswith("tvl_")
    assert len(token) == 47, "32 random bytes in base64"
    assert token.removeprefix("tvl_") not in file.path.read_text()
    assert entry.sha256 == sha256_of(token)
    assert json.loads(file.path.read_text())["version"] == 1
    assert list(file.entries()) == [entry]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert {path.name for path in file.path.parent.iterdir()} == {"tokens.json", "tokens.json.lock"}


def test_a_token_is_valid_until_it_expires_or_is_revoked() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    entry = parse_entries(
        json.dumps(
            {
                "version": 1,
                "entries": [
                    {
                        "id": "0123abcd",
                        "name": "ci",
                        "role": "viewer",
                        "sha256": "0" * 64,
                        "created_at": "2026-01-01T00:00:00Z",
                        "expires_at": "2026-01-02T00:00:00Z",
                    }
                ],
            }
        ).encode()
    )[0]

    assert entry.state(moment - timedelta(seconds=1)) == "valid"
    assert entry.state(moment) == "expired"
    assert entry.model_copy(update={"revoked_at": moment}).state(moment) == "revoked"


@pytest.mark.parametrize(
    "name", ["", "-x", "a b", "a\n", "x" * 65, "é", "local", "nobody", "scrape", "unknown"]
)
def test_a_name_that_a_log_could_misread_is_refused(file: TokenFile, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a token"):
        file.create(name, Role.viewer)
    assert not file.path.exists()


def test_a_name_is_taken_as_long_as_its_token_is_valid(file: TokenFile) -> None:
    file.create("ci", Role.viewer)
    with pytest.raises(ValueError, match="there is a valid token ci already"):
        file.create("ci", Role.admin)

    file.revoke("ci")

    assert file.create("ci", Role.admin)[0].role is Role.admin
    assert [entry.state(now()) for entry in file.entries()] == ["revoked", "valid"]


def test_a_token_is_revoked_by_name_or_id_once(file: TokenFile) -> None:
    by_name, by_id = (file.create(name, Role.viewer)[0] for name in ("one", "two"))

    assert [each.id for each in file.revoke("one")] == [by_name.id]
    assert [each.id for each in file.revoke(by_id.id)] == [by_id.id]
    with pytest.raises(ValueError, match="there is no token 'one' that is not revoked yet"):
        file.revoke("one")


def _create(path: Path, who: str) -> None:
    file = TokenFile(path, now=now)
    for number in range(10):
        file.create(f"{who}-{number}", Role.viewer)


def test_two_that_make_tokens_at_once_lose_none(file: TokenFile) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_create, args=(file.path, who)) for who in ("a", "b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert {entry.name for entry in file.entries()} == {f"{who}-{n}" for who in "ab" for n in range(10)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"version": 2}',
        '{"version": 1, "entries": [{"sha256": "secret-thing"}]}',
        "\0",
        "[" * 5000,
    ],
)
def test_what_is_no_file_of_tokens_is_said_without_quoting_it(file: TokenFile, text: str) -> None:
    file.path.write_text(text)

    with pytest.raises(ValueError, match="is no file of tokens: ") as refused:
        file.entries()
    assert "secret-thing" not in str(refused.value)


def test_a_file_that_others_may_write_is_refused(file: TokenFile) -> None:
    file.create("ci", Role.viewer)
    file.path.chmod(0o620)

    with pytest.raises(ValueError, match=r"is open to others \(mode 0620\); close it with chmod 600"):
        file.create("me", Role.admin)


def test_the_local_token_is_made_once_and_kept(tmp_path: Path) -> None:
    path = make_local_token(tmp_path / "state")
    token = read_local_token(tmp_path / "state")

    assert path.read_text() == token + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    make_local_token(tmp_path / "state")
    assert read_local_token(tmp_path / "state") == token
    assert [each.name for each in (tmp_path / "state").iterdir()] == ["local-token"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_local_token_that_others_could_know_is_refused(tmp_path: Path, mode: int) -> None:
    path = make_local_token(tmp_path)
    path.chmod(mode)

    with pytest.raises(ValueError, match=rf"local-token is open to others \(mode {mode:04o}\)"):
        make_local_token(tmp_path)


@pytest.mark.parametrize("text", ["", "\n", "short", "two words that are long", "x" * 201, "é" * 20])
def test_a_local_token_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    make_local_token(tmp_path).write_text(text)

    with pytest.raises(ValueError, match="local-token holds no token"):
        make_local_token(tmp_path)


def test_a_token_for_another_service_is_read_from_any_file_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  0123456789abcdef\n")
    path.chmod(0o644)

    assert read_token(path) == "0123456789abcdef"


@pytest.mark.parametrize("text", ["", "secret-thing", "secret-thing-of-one\nsecret-thing-of-two\n", "é" * 20])
def test_what_is_no_token_for_another_service_is_said_without_quoting_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)

    with pytest.raises(ValueError, match="token holds no token: one line of 16 to 200 characters") as refused:
        read_token(path)
    assert "secret" not in str(refused.value)
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(OSError, match="directory"):
            read_token(wrong)


def test_a_folder_in_place_of_a_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "local-token").mkdir()

    with pytest.raises((ValueError, OSError), match=r"no file of a usual size|directory"):
        make_local_token(tmp_path)


def _make(folder: Path) -> None:
    make_local_token(folder)


def test_two_services_of_one_folder_have_one_local_token(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_make, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [each.name for each in tmp_path.iterdir()] == ["local-token"]
