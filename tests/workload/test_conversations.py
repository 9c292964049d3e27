from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workload import WorkloadError, conversations
from workload.conversations import (
    Conversation,
    Reading,
    Reason,
    Turn,
    chitchat_path,
    read_chitchat,
    read_conversations,
    read_jsonl,
    split,
)

Say = Callable[..., Conversation]

GOOD = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}'
SECRET = "my sister's name is Rosalind"


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def line(*messages: object) -> bytes:
    return json.dumps({"messages": messages}).encode()


def message(role: object = "user", content: object = "hi") -> dict[str, object]:
    return {"role": role, "content": content}


def group(sender: object, *texts: object) -> list[dict[str, object]]:
    return [{"text": text, "timestamp": "2018-05-02T19:38:15Z", "sender": sender} for text in texts]


def write_chitchat(path: Path, *messages: object) -> Path:
    path.write_text(json.dumps({f"id-{n}": {"messages": m} for n, m in enumerate(messages)}))
    return path


def counts(reading: Reading) -> dict[Reason, int]:
    return {reason: entry.count for reason, entry in reading.report.not_used.items()}


def adds_up(reading: Reading) -> bool:
    report = reading.report
    return report.found == report.used + sum(counts(reading).values()) and report.used == len(
        reading.conversations
    )


def test_chitchat_is_read_whole_and_its_one_sender_conversations_are_counted() -> None:
    reading = read_chitchat(chitchat_path())
    assert reading.report.found == 7168
    assert counts(reading)[Reason.ONE_SENDER] == 3150
    assert adds_up(reading)
    assert all(conversation.turns[0].role == "user" for conversation in reading.conversations)


def test_a_turn_of_chitchat_is_a_group_of_messages(tmp_path: Path) -> None:
    path = write_chitchat(
        tmp_path / "d.json", [group("x", "one", " two "), group("y", "three"), group("x", "4")]
    )
    [conversation] = read_chitchat(path).conversations
    assert conversation.turns == (Turn("user", "one\ntwo"), Turn("assistant", "three"), Turn("user", "4"))


def test_a_blank_message_is_left_out_of_its_turn_and_counted(tmp_path: Path) -> None:
    reading = read_chitchat(write_chitchat(tmp_path / "d.json", [group("x", "one", "  "), group("y", "two")]))
    assert reading.conversations[0].turns[0].text == "one"
    assert reading.report.blank_messages == 1
    assert "left out: 1 blank messages" in reading.report.lines()[-1]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], Reason.NO_MESSAGES),
        (None, Reason.NO_MESSAGES),
        ("hello", Reason.WRONG_TYPE),
        (["hello"], Reason.WRONG_TYPE),
        ([["hello"]], Reason.WRONG_TYPE),
        ([group("x", 7), group("y", "b")], Reason.WRONG_TYPE),
        ([group(None, "a"), group("y", "b")], Reason.WRONG_TYPE),
        ([group("x", "\ud800"), group("y", "b")], Reason.NOT_UTF8),
        ([group("x", " "), group("y", "b")], Reason.EMPTY_TEXT),
        ([[], group("y", "b")], Reason.EMPTY_TEXT),
        ([group("x", "a"), group("x", "b")], Reason.ONE_SENDER),
        ([group("x", "a"), group("y", "b"), group("z", "c")], Reason.MANY_SENDERS),
        ([group("x", "a") + group("y", "b"), group("y", "c")], Reason.MIXED_TURN),
    ],
)
def test_an_unusable_chitchat_conversation_is_counted_under_its_reason(
    tmp_path: Path, messages: object, reason: Reason
) -> None:
    good = [group("x", "a"), group("y", "b")]
    reading = read_chitchat(write_chitchat(tmp_path / "d.json", good, messages, good))
    assert counts(reading) == {reason: 1}
    assert reading.report.not_used[reason].first_record == 2
    assert adds_up(reading)


@pytest.mark.parametrize("content", ["[]", "nonsense", "[" * 100_000, ""])
def test_a_broken_chitchat_file_is_one_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(content)
    with pytest.raises(WorkloadError, match="install chitchat-dataset again"):
        read_chitchat(path)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\xff\xfe\x00", Reason.NOT_UTF8),
        (line(message(content="\ud800"), message("assistant")), Reason.NOT_UTF8),
        (b'{"messages": [', Reason.MALFORMED_JSON),
        (b'{"messages": ' + b"9" * 5000 + b"}", Reason.MALFORMED_JSON),
        (b"[" * 100_000, Reason.MALFORMED_JSON),
        (b"[]", Reason.WRONG_TYPE),
        (b'"messages"', Reason.WRONG_TYPE),
        (b'{"messages": {"role": "user"}}', Reason.WRONG_TYPE),
        (line("hi", "hello"), Reason.WRONG_TYPE),
        (line(message(content=None), message("assistant")), Reason.WRONG_TYPE),
        (line(message(content=[{"type": "text", "text": "hi"}]), message("assistant")), Reason.WRONG_TYPE),
        (line(message(role=["user"]), message("assistant")), Reason.WRONG_TYPE),
        (b"{}", Reason.NO_MESSAGES),
        (b'{"messages": null}', Reason.NO_MESSAGES),
        (line(), Reason.NO_MESSAGES),
        (line(message("tool"), message("assistant")), Reason.UNKNOWN_ROLE),
        (line(message(content="\t"), message("assistant")), Reason.EMPTY_TEXT),
        (line(message(), message()), Reason.ONE_SENDER),
        (line(message("system"), message("user")), Reason.ONE_SENDER),
    ],
)
def test_an_unusable_line_is_counted_under_its_reason(tmp_path: Path, bad: bytes, reason: Reason) -> None:
    reading = read_jsonl(write(tmp_path / "d.jsonl", GOOD, bad, GOOD))
    assert counts(reading) == {reason: 1}
    assert reading.report.not_used[reason].first_record == 2
    assert adds_up(reading)


def test_a_line_that_is_too_long_is_counted_and_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "LONGEST_LINE_BYTES", 200)
    reading = read_jsonl(write(tmp_path / "d.jsonl", b"x" * 1000, GOOD, b"x" * 402))
    assert counts(reading) == {Reason.TOO_LONG: 2}
    assert reading.report.used == 1


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    reading = read_jsonl(write(tmp_path / "d.jsonl", b"\xef\xbb\xbf" + GOOD, b"", b"  ", GOOD + b"\r"))
    assert (reading.report.found, reading.report.used) == (2, 2)


def test_a_system_turn_may_come_first(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", line(message("system"), message("user"), message("assistant")))
    [conversation] = read_jsonl(path).conversations
    assert [turn.role for turn in conversation.turns] == ["system", "user", "assistant"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["messages", "role", "content", "text"]), inner)
    ),
)
lines = (
    st.binary().map(lambda raw: raw.replace(b"\n", b""))
    | json_values.map(lambda value: json.dumps(value).encode())
    | json_values.map(lambda value: json.dumps({"messages": value}).encode())
    | st.just(GOOD)
)


@settings(deadline=None, max_examples=40)
@given(st.lists(lines, max_size=8))
def test_whatever_the_lines_hold_nothing_crashes_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, raw: list[bytes]
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "d.jsonl", *raw)
    reading = read_jsonl(path)
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    assert adds_up(reading)
    assert reading.report.found == sum(1 for entry in content.split(b"\n") if entry.strip())


@settings(deadline=None, max_examples=40)
@given(st.lists(json_values, max_size=5))
def test_whatever_chitchat_holds_nothing_crashes_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, messages: list[object]
) -> None:
    path = write_chitchat(tmp_path_factory.mktemp("fuzz") / "d.json", *messages)
    reading = read_chitchat(path)
    assert adds_up(reading)
    assert reading.report.found == len(messages)


def test_no_text_of_a_conversation_enters_a_message(tmp_path: Path) -> None:
    bad = [
        SECRET.encode(),
        line(message(content=SECRET)),
        line(message(SECRET), message("assistant")),
        line({SECRET: SECRET}),
        json.dumps({SECRET: SECRET}).encode(),
    ]
    with pytest.raises(WorkloadError) as caught:
        read_conversations(write(tmp_path / "d.jsonl", *bad))
    assert "Rosalind" not in str(caught.value)
    assert "d.jsonl: 5 conversations, 0 used" in str(caught.value)
    assert caught.value.__context__ is None


def test_a_missing_file_a_folder_and_an_unreadable_one_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"nowhere\.jsonl: No such file or directory; --data takes"):
        read_conversations(tmp_path / "nowhere.jsonl")
    with pytest.raises(WorkloadError, match="is no file; --data takes"):
        read_conversations(tmp_path)


def test_an_empty_file_has_no_usable_conversation(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(WorkloadError, match=r"no usable conversation; empty\.jsonl: 0 conversations, 0 used"):
        read_conversations(tmp_path / "empty.jsonl")


def test_the_split_does_not_depend_on_order_or_company(say: Say) -> None:
    all_of_them = [say(f"question {n}", f"answer {n}") for n in range(400)]
    whole = split(all_of_them, 0.1)
    assert 20 <= len(whole.validation) <= 60
    half = split(all_of_them[::-2], 0.1)
    assert set(half.validation) <= set(whole.validation)
    assert set(half.training) <= set(whole.training)


def test_duplicates_stay_on_one_side_also_in_other_case_and_spacing(say: Say) -> None:
    originals = [say(f"question {n}", f"answer {n}") for n in range(200)]
    copies = [say(f" QUESTION  {n}", f"Answer\n{n}") for n in range(200)]
    parts = split(originals + copies, 0.3)
    assert len(parts.training) + len(parts.validation) == 400
    in_training = {conversation.content_hash() for conversation in parts.training}
    assert not any(conversation.content_hash() in in_training for conversation in parts.validation)


def test_who_says_it_belongs_to_the_content() -> None:
    asked = Conversation((Turn("user", "a"), Turn("assistant", "b")))
    answered = Conversation((Turn("assistant", "a"), Turn("user", "b")))
    assert asked.content_hash() != answered.content_hash()


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_each_side_gets_something_however_small_the_set(say: Say, share: float) -> None:
    parts = split([say("a", "b"), say("c", "d"), say("a", "b")], share)
    assert parts.training
    assert parts.validation


def test_conversations_that_all_say_the_same_cannot_be_split(say: Say) -> None:
    with pytest.raises(WorkloadError, match="two different conversations"):
        split([say("a", "b")] * 5, 0.1)
