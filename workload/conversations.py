"""Reads conversations and says what it could not use.

Two sources: the dataset of the PyPI package chitchat-dataset, and any JSONL file with one
`{"messages": [{"role": …, "content": …}]}` a line. A record that cannot be used is counted under its
reason; none crashes the reading, none is lost silently, and no text of a conversation ever enters a
message: counts, reasons and record numbers only.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar

from workload import WorkloadError

Role = Literal["system", "user", "assistant"]
ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}

# A line beyond this is no conversation; the limit keeps one broken file from filling the memory.
LONGEST_LINE_BYTES = 16 * 1024 * 1024


class Reason(Enum):
    """Why a conversation is not used."""

    NOT_UTF8 = "not UTF-8"
    TOO_LONG = "longer than 16 MiB"
    MALFORMED_JSON = "malformed JSON"
    WRONG_TYPE = "wrong type"
    NO_MESSAGES = "no messages"
    UNKNOWN_ROLE = "unknown role"
    EMPTY_TEXT = "a turn without text"
    ONE_SENDER = "one sender only"
    MANY_SENDERS = "more than two senders"
    MIXED_TURN = "a turn by several senders"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says before the other answers."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A usable conversation: at least two turns, by at least two roles, each with text."""

    turns: tuple[Turn, ...]

    def content_hash(self) -> bytes:
        """SHA-256 over roles and texts; case and white space do not count."""
        digest = hashlib.sha256()
        for turn in self.turns:
            words = " ".join(turn.text.casefold().split())
            digest.update(f"{turn.role}\x1f{words}\x1e".encode())
        return digest.digest()


@dataclass(frozen=True, slots=True)
class NotUsed:
    """How many conversations share a reason, and the number of the first, counted from 1."""

    count: int
    first_record: int


@dataclass(frozen=True, slots=True)
class ReadReport:
    """What came of a reading: found = used + the counts of all reasons.

    `blank_messages` are messages without text inside a turn that has some; they are left out of it.
    """

    source: str
    found: int
    used: int
    not_used: Mapping[Reason, NotUsed]
    blank_messages: int

    def lines(self) -> list[str]:
        """The report for a reader: one line in all, and one for each reason."""
        lines = [f"{self.source}: {self.found:,} conversations, {self.used:,} used"]
        lines += [
            f"not used: {entry.count:,} for {reason.value} (the first is record {entry.first_record:,})"
            for reason, entry in sorted(self.not_used.items(), key=lambda item: -item[1].count)
        ]
        if self.blank_messages:
            lines.append(f"left out: {self.blank_messages:,} blank messages of conversations that are used")
        return lines


class Reading(NamedTuple):
    conversations: list[Conversation]
    report: ReadReport


class Split(NamedTuple):
    """Training and validation conversations; no content stands on both sides."""

    training: list[Conversation]
    validation: list[Conversation]


class _UnusableError(Exception):
    """Carries the reason, and nothing of the record."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class _Parsed(NamedTuple):
    conversation: Conversation
    blank_messages: int


_Record = TypeVar("_Record")


def read_conversations(path: Path | None) -> Reading:
    """Read a JSONL file, or chitchat when there is no path.

    Raises `WorkloadError` when the source cannot be read or has no usable conversation.
    """
    reading = read_chitchat(chitchat_path()) if path is None else read_jsonl(path)
    if not reading.conversations:
        raise WorkloadError(
            "; ".join(["no usable conversation", *reading.report.lines()])
            + '; each line must be {"messages": [{"role": "user", "content": …}, …]}, with two roles'
        )
    return reading


def chitchat_path() -> Path:
    """Where the installed chitchat-dataset keeps its data, found without importing it."""
    spec = find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise WorkloadError(
            "the package chitchat-dataset is not installed; install it, or name a JSONL file with --data"
        )
    return Path(spec.origin).parent / "dataset.json"


def read_chitchat(path: Path) -> Reading:
    """Read chitchat's one JSON object: id → {"messages": [[{"text", "timestamp", "sender"}, …], …]}.

    A turn is a group of messages. The first sender is the user, the other one the assistant.
    """
    try:
        records = json.loads(_regular_file(path).read_bytes())
    except OSError as error:
        raise WorkloadError(f"cannot read {path}: {error.strerror}; install chitchat-dataset again") from None
    except (ValueError, RecursionError):
        raise WorkloadError(f"{path} is no JSON; install chitchat-dataset again") from None
    if not isinstance(records, dict):
        raise WorkloadError(f"{path} is no object of conversations; install chitchat-dataset again")
    return _collect("chitchat", records.values(), _parse_chitchat)


def read_jsonl(path: Path) -> Reading:
    """Read one conversation a line; blank lines count for nothing."""
    try:
        with _regular_file(path).open("rb") as file:
            return _collect(path.name, _lines(file), _parse_line)
    except OSError as error:
        raise WorkloadError(
            f"cannot read {path}: {error.strerror}; --data takes the path of a JSONL file"
        ) from None


def split(conversations: Sequence[Conversation], validation_share: float) -> Split:
    """Divide by the hash of the content: the same on every machine, and duplicates stay together.

    Where chance leaves one side empty, it gets the content with the smallest (or the largest) hash.
    Raises `WorkloadError` when there are no two different conversations.
    """
    hashes = [conversation.content_hash() for conversation in conversations]
    contents = set(hashes)
    if len(contents) < 2:
        raise WorkloadError(
            "training and validation need two different conversations at least; give --data more of them"
        )
    bound = validation_share * 2**64
    held_out = {content for content in contents if int.from_bytes(content[:8], "big") < bound}
    held_out = held_out or {min(contents)}
    if held_out == contents:
        held_out.remove(max(contents))
    training = [c for c, content in zip(conversations, hashes, strict=True) if content not in held_out]
    validation = [c for c, content in zip(conversations, hashes, strict=True) if content in held_out]
    return Split(training, validation)


def _regular_file(path: Path) -> Path:
    """The path itself; a pipe or a device would keep us waiting for ever."""
    if path.exists() and not path.is_file():
        raise WorkloadError(f"{path} is no file; --data takes the path of a JSONL file")
    return path


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines that hold something; of one that is too long, as much as shows it."""
    first = True
    while line := file.readline(LONGEST_LINE_BYTES + 1):
        rest = line
        while len(rest) > LONGEST_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE_BYTES + 1)
        if first:
            line = line.removeprefix(codecs.BOM_UTF8)
            first = False
        if line.strip():
            yield line


def _collect(source: str, records: Iterable[_Record], parse: Callable[[_Record], _Parsed]) -> Reading:
    conversations: list[Conversation] = []
    not_used: dict[Reason, NotUsed] = {}
    blank_messages = 0
    found = 0
    for found, record in enumerate(records, start=1):
        try:
            parsed = parse(record)
        except _UnusableError as unusable:
            before = not_used.get(unusable.reason, NotUsed(0, found))
            not_used[unusable.reason] = NotUsed(before.count + 1, before.first_record)
        else:
            conversations.append(parsed.conversation)
            blank_messages += parsed.blank_messages
    report = ReadReport(source, found, len(conversations), not_used, blank_messages)
    return Reading(conversations, report)


def _parse_line(line: bytes) -> _Parsed:
    if len(line) > LONGEST_LINE_BYTES:
        raise _UnusableError(Reason.TOO_LONG)
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise _UnusableError(Reason.NOT_UTF8) from None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise _UnusableError(Reason.MALFORMED_JSON) from None
    turns = []
    for message in _messages(record):
        role, content = _string(message, "role"), _string(message, "content")
        if role not in ROLES:
            raise _UnusableError(Reason.UNKNOWN_ROLE)
        if not content:
            raise _UnusableError(Reason.EMPTY_TEXT)
        turns.append(Turn(ROLES[role], content))
    if len({turn.role for turn in turns if turn.role != "system"}) < 2:
        raise _UnusableError(Reason.ONE_SENDER)
    return _Parsed(Conversation(tuple(turns)), 0)


def _parse_chitchat(record: object) -> _Parsed:
    turns: list[Turn] = []
    senders: dict[str, Role] = {}
    blank_messages = 0
    for group in _messages(record):
        if not isinstance(group, list):
            raise _UnusableError(Reason.WRONG_TYPE)
        texts = [_string(message, "text") for message in group]
        group_senders = {_string(message, "sender") for message in group}
        if not any(texts):
            raise _UnusableError(Reason.EMPTY_TEXT)
        if len(group_senders) > 1:
            raise _UnusableError(Reason.MIXED_TURN)
        role = senders.setdefault(group_senders.pop(), "assistant" if senders else "user")
        turns.append(Turn(role, "\n".join(text for text in texts if text)))
        blank_messages += texts.count("")
    if len(senders) < 2:
        raise _UnusableError(Reason.ONE_SENDER)
    if len(senders) > 2:
        raise _UnusableError(Reason.MANY_SENDERS)
    return _Parsed(Conversation(tuple(turns)), blank_messages)


def _messages(record: object) -> list[Any]:
    if not isinstance(record, dict):
        raise _UnusableError(Reason.WRONG_TYPE)
    messages = record.get("messages")
    if messages is None or messages == []:
        raise _UnusableError(Reason.NO_MESSAGES)
    if not isinstance(messages, list):
        raise _UnusableError(Reason.WRONG_TYPE)
    return messages


def _string(message: object, key: str) -> str:
    """The stripped value of a key; JSON can carry lone surrogates, which are no text."""
    value = message.get(key) if isinstance(message, dict) else None
    if not isinstance(value, str):
        raise _UnusableError(Reason.WRONG_TYPE)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _UnusableError(Reason.NOT_UTF8) from None
    return value.strip()
