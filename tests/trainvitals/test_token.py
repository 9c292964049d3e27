"""`trainvitals token` as a command."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from exporters.access.audit import AuditLog
from exporters.access.callers import Callers
from exporters.access.roles import Caller, Role
from exporters.access.tokens import make_local_token
from trainvitals.cli import main
from trainvitals.token import app, parse_duration


class Tokens:
    """The command on a database of the test's own, and what it printed."""

    def __init__(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = file
        self.state = file.with_name("history.db")
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, output, and what went beside it."""
        with pytest.raises(SystemExit) as ended:
            app(args=[*arguments, "--state", str(self.state)], prog_name="trainvitals token")
        told = self._capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    @property
    def audited(self) -> list[tuple[str, str]]:
        entries, _ = AuditLog(self.file.with_name("audit.jsonl")).newest(100)
        return [(entry.action, entry.outcome) for entry in entries[::-1]]


@pytest.fixture
def tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tokens:
    return Tokens(tmp_path / "tokens.json", capsys)


def test_a_token_is_printed_once_and_opens_the_door(tokens: Tokens) -> None:
    status, out, err = tokens("create", "ci", "--role", "operator")

    assert status == 0
    assert re.fullmatch(r"tvl_[A-Za-z0-9_-]{43}\n", out), "alone, for a pipe"
    assert re.fullmatch(rf"ci \([0-9a-f]{{8}}\) is operator until it is revoked, by {tokens.file}; .*\n", err)
    callers = Callers(make_local_token(tokens.file.parent), tokens.file)
    assert callers.of_token(out.strip()) == Caller("ci", Role.operator)
    assert out.strip() not in tokens("list")[1]
    assert tokens.audited == [("create token", "accepted")]


def test_tokens_are_listed_with_their_state(tokens: Tokens) -> None:
    assert "no token in" in tokens("list")[1]
    tokens("create", "a-viewer", "--role", "viewer", "--expires", "30d")
    tokens("create", "gone", "--role", "admin")
    tokens("revoke", "gone")

    _, *lines = tokens("list")[1].splitlines()

    assert [line.split()[0::2][:2] for line in lines] == [["a-viewer", "viewer"], ["gone", "admin"]]
    assert [line.split()[3] for line in lines] == ["valid", "revoked"]
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ$", lines[0].strip())
    assert lines[1].strip().endswith("never")


def test_a_revoked_token_is_written_down_and_no_longer_valid(tokens: Tokens) -> None:
    token = tokens("create", "ci", "--role", "viewer")[1].strip()

    status, out, _ = tokens("revoke", "ci")

    assert status == 0
    assert re.fullmatch(r"ci \([0-9a-f]{8}\) is revoked\n", out)
    assert Callers(make_local_token(tokens.file.parent), tokens.file).of_token(token) is None
    assert tokens.audited == [("create token", "accepted"), ("revoke token", "revoked")]
    log = tokens.file.with_name("audit.jsonl").read_text()
    assert token not in log


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "a b", "--role", "viewer"], "token create: 'a b' is no name for a token"),
        (
            ["create", "a", "--role", "viewer", "--expires", "soon"],
            "--expires soon is no time up to 36500 days",
        ),
        (["create", "a", "--role", "viewer", "--expires", "9999999w"], "is no time up to 36500 days"),
        (["revoke", "nobody"], "token revoke: there is no token 'nobody' that is not revoked yet in"),
    ],
)
def test_what_will_not_do_is_a_sentence_and_changes_nothing(
    tokens: Tokens, arguments: list[str], said: str
) -> None:
    status, out, err = tokens(*arguments)

    assert (status, out) == (1, "")
    assert said in err
    assert not tokens.file.exists()


def test_without_an_audit_log_no_token_is_made_and_one_is_revoked_all_the_same(tokens: Tokens) -> None:
    tokens("create", "ci", "--role", "viewer")
    log = tokens.file.with_name("audit.jsonl")
    log.unlink()
    log.mkdir()

    status, out, err = tokens("create", "other", "--role", "viewer")
    assert (status, out) == (1, "")
    assert "Is a directory" in err
    status, out, err = tokens("revoke", "ci")
    assert status == 1
    assert "is revoked" in out
    assert "token revoke: revoked, but " in err
    assert [line.split()[0] for line in tokens("list")[1].splitlines()[1:]] == ["ci"]


def test_a_token_file_elsewhere_is_told_of_in_the_log_of_the_service(tokens: Tokens, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "tokens.json"

    assert tokens("create", "ci", "--role", "viewer", "--token-file", str(elsewhere))[0] == 0
    assert tokens("revoke", "ci", "--token-file", str(elsewhere))[0] == 0

    assert tokens.audited == [("create token", "accepted"), ("revoke token", "revoked")]
    assert not elsewhere.with_name("audit.jsonl").exists()


def test_the_state_directory_has_the_file_that_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    with pytest.raises(SystemExit):
        app(args=["create", "ci", "--role", "viewer"])

    for name in ("tokens.json", "audit.jsonl"):
        assert (tmp_path / "trainvitals" / name).exists()
    assert capsys.readouterr().out.startswith("tvl_")


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("8w", timedelta(weeks=8)),
    ],
)
def test_a_duration_has_a_unit(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


def test_the_command_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["token", "--help"])

    assert "revoke" in capsys.readouterr().out
