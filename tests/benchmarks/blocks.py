"""Blocks of a Prometheus database, written as Prometheus would: series by the hundred thousand in seconds.

promtool makes blocks of text, sample by sample, which takes an hour for a fleet's day. Here many series share
a course, and a course is packed once. The formats are those of github.com/prometheus/prometheus/tree/v2.42.0/
tsdb/docs/format: chunks, index, meta; packing is that of tsdb/chunkenc/xor.go.
"""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

SAMPLES_A_CHUNK = 120
SEGMENT_BYTES = 512 * 2**20

_CHUNKS_HEADER = struct.pack(">IB3x", 0x85BD40DD, 1)
_INDEX_HEADER = struct.pack(">IB", 0xBAAAD700, 2)
_XOR_ENCODING = b"\x01"
_SERIES_ALIGNMENT = 16

Labels = tuple[tuple[str, str], ...]
Sample = tuple[int, float]


class Chunk(NamedTuple):
    """Packed samples as they lie in a file, and the times of the first and the last in milliseconds."""

    first: int
    last: int
    data: bytes
    samples: int


class Course(NamedTuple):
    """The packed samples of as many series as have these, in order of time."""

    chunks: Sequence[Chunk]

    def between(self, start: int, end: int) -> Course:
        """The chunks that begin in this time; none may reach beyond its end."""
        return Course([chunk for chunk in self.chunks if start <= chunk.first < end])


class Series(NamedTuple):
    """Labels, the metric's name among them as `__name__`, sorted by name; and what course it takes."""

    labels: Labels
    course: Course


def pack(samples: Sequence[Sample], block_milliseconds: int) -> Course:
    """The course of samples, each a time in milliseconds and a value, in order of time.

    No chunk holds samples on both sides of a multiple of `block_milliseconds`.
    """
    chunks = []
    begin = 0
    for place, (moment, _) in enumerate(samples):
        new_block = moment // block_milliseconds != samples[begin][0] // block_milliseconds
        if new_block or place - begin == SAMPLES_A_CHUNK:
            chunks.append(_chunk(samples[begin:place]))
            begin = place
    return Course([*chunks, _chunk(samples[begin:])] if samples else [])


def write_block(directory: Path, series: Iterable[Series], start: int, end: int) -> Path:
    """Write what lies in this time, in milliseconds and the end excluded, as one block; its folder.

    `series` are sorted by their labels; their chunks must not reach beyond that time.
    """
    block = directory / _ulid(start)
    (block / "chunks").mkdir(parents=True)
    parts: dict[int, Course] = {}
    counted = {"numSamples": 0, "numSeries": 0, "numChunks": 0}
    with _Chunks(block / "chunks") as chunks:
        placed = []
        for one in series:
            part = parts.get(id(one.course))
            if part is None:
                part = parts[id(one.course)] = one.course.between(start, end)
            if part.chunks:
                placed.append((one.labels, part, chunks.add(part)))
                counted["numSamples"] += sum(chunk.samples for chunk in part.chunks)
                counted["numChunks"] += len(part.chunks)
    counted["numSeries"] = len(placed)
    _write_index(block / "index", placed)
    meta = {
        "ulid": block.name,
        "minTime": start,
        "maxTime": end,
        "stats": counted,
        "compaction": {"level": 1, "sources": [block.name]},
        "version": 1,
    }
    (block / "meta.json").write_text(json.dumps(meta))
    return block


class _Chunks:
    """The files of a block's chunks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        self._packed: dict[int, bytes] = {}
        self._open_next()

    def __enter__(self) -> _Chunks:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, course: Course) -> int:
        """Write the chunks of a series one behind the other; the reference of the first."""
        content = self._packed.get(id(course))
        if content is None:
            content = self._packed[id(course)] = b"".join(chunk.data for chunk in course.chunks)
        if self._position + len(content) > SEGMENT_BYTES:
            self._file.close()
            self._open_next()
        reference = (self._number - 1) << 32 | self._position
        self._file.write(content)
        self._position += len(content)
        return reference

    def _open_next(self) -> None:
        self._number += 1
        self._file: IO[bytes] = (self._directory / f"{self._number:06}").open("wb")
        self._position = self._file.write(_CHUNKS_HEADER)


def _write_index(path: Path, placed: Sequence[tuple[Labels, Course, int]]) -> None:
    """The index of series with their chunks and the references of their first chunks."""
    words = sorted({word for labels, _, _ in placed for pair in labels for word in pair})
    number = {word: place for place, word in enumerate(words)}
    postings: dict[tuple[str, str], list[int]] = {}
    every: list[int] = []
    with path.open("wb") as file:
        position = file.write(_INDEX_HEADER)
        symbols = position
        position += file.write(_section(len(words), b"".join(_string(word) for word in words)))
        series_begin = position
        behind_first: dict[int, bytes] = {}
        for labels, course, reference in placed:
            position += file.write(bytes(-position % _SERIES_ALIGNMENT))
            entry = [_uvarint(len(labels))]
            for pair in labels:
                entry += [_uvarint(number[pair[0]]), _uvarint(number[pair[1]])]
                postings.setdefault(pair, []).append(position // _SERIES_ALIGNMENT)
            every.append(position // _SERIES_ALIGNMENT)
            first = course.chunks[0]
            entry += [_uvarint(len(course.chunks)), _varint(first.first)]
            entry += [_uvarint(first.last - first.first), _uvarint(reference)]
            if id(course) not in behind_first:
                behind_first[id(course)] = _further_chunks(course)
            content = b"".join(entry) + behind_first[id(course)]
            position += file.write(_uvarint(len(content)) + content + _checksum(content))
        label_indices = position
        position += file.write(_section(0, b""))  # nothing reads it any more
        postings_begin = position
        table = []
        for pair, references in [(("", ""), every), *sorted(postings.items())]:
            position += file.write(bytes(-position % 4))
            table.append(b"\x02" + _string(pair[0]) + _string(pair[1]) + _uvarint(position))
            position += file.write(
                _section(len(references), struct.pack(f">{len(references)}I", *references))
            )
        postings_table = position
        file.write(_section(len(table), b"".join(table)))
        contents = struct.pack(
            ">6Q", symbols, series_begin, label_indices, label_indices, postings_begin, postings_table
        )
        file.write(contents + _checksum(contents))


def _further_chunks(course: Course) -> bytes:
    """All chunks but the first, each by how it differs from the one before."""
    told = []
    for before, chunk in zip(course.chunks, course.chunks[1:], strict=False):
        told += [_uvarint(chunk.first - before.last), _uvarint(chunk.last - chunk.first)]
        told.append(_varint(len(before.data)))
    return b"".join(told)


def _section(count: int, content: bytes) -> bytes:
    content = struct.pack(">I", count) + content
    return struct.pack(">I", len(content)) + content + _checksum(content)


def _chunk(samples: Sequence[Sample]) -> Chunk:
    packed = _xor(samples)
    data = _uvarint(len(packed)) + _XOR_ENCODING + packed + _checksum(_XOR_ENCODING + packed)
    return Chunk(samples[0][0], samples[-1][0], data, len(samples))


def _xor(samples: Sequence[Sample]) -> bytes:
    """Of times, how much the difference of two differs from that before; of values, the bits that differ."""
    (moment, value), *rest = samples
    before = _bits(value)
    head = struct.pack(">H", len(samples)) + _varint(moment) + struct.pack(">Q", before)
    bits, length = 0, 0  # behind the head; the highest bit was written first
    delta = 0
    leading, trailing = -1, 0  # of the last value that said how many of its bits differ
    for place, (next_moment, value) in enumerate(rest):
        next_delta = next_moment - moment
        if place == 0:
            told = _uvarint(next_delta)
            bits, length = bits << 8 * len(told) | int.from_bytes(told, "big"), length + 8 * len(told)
        else:
            mark, size, told_as = _of_delta(next_delta - delta)
            bits, length = (bits << size | mark) << told_as[1] | told_as[0], length + size + told_as[1]
        moment, delta = next_moment, next_delta
        after = _bits(value)
        differs, before = before ^ after, after
        if not differs:
            bits, length = bits << 1, length + 1
            continue
        zeros_before = min(64 - differs.bit_length(), 31)
        zeros_behind = (differs & -differs).bit_length() - 1
        if leading >= 0 and zeros_before >= leading and zeros_behind >= trailing:
            mark, size = 0b10, 2
        else:
            leading, trailing = zeros_before, zeros_behind
            mark, size = (0b11 << 5 | leading) << 6 | (64 - leading - trailing) % 64, 13
        count = 64 - leading - trailing
        bits = (bits << size | mark) << count | differs >> trailing
        length += size + count
    bits, length = bits << -length % 8, length + -length % 8
    return head + bits.to_bytes(length // 8, "big")


def _of_delta(change: int) -> tuple[int, int, tuple[int, int]]:
    """How a change of the time between two samples is told: a mark and its size, the number and its size."""
    if change == 0:
        return 0, 1, (0, 0)
    for mark, mark_size, size in ((0b10, 2, 14), (0b110, 3, 17), (0b1110, 4, 20)):
        if -(2 ** (size - 1)) < change <= 2 ** (size - 1):
            return mark, mark_size, (change & 2**size - 1, size)
    return 0b1111, 4, (change & 2**64 - 1, 64)


def _bits(value: float) -> int:
    number: int = struct.unpack(">Q", struct.pack(">d", value))[0]
    return number


def _uvarint(number: int) -> bytes:
    told = bytearray()
    while number >= 0x80:
        told.append(number & 0x7F | 0x80)
        number >>= 7
    told.append(number)
    return bytes(told)


def _varint(number: int) -> bytes:
    return _uvarint(number << 1 if number >= 0 else ~(number << 1))


def _string(text: str) -> bytes:
    content = text.encode()
    return _uvarint(len(content)) + content


def _castagnoli() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


_TABLE = _castagnoli()


def _checksum(content: bytes) -> bytes:
    """CRC-32C, RFC 3720 B.4."""
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return struct.pack(">I", crc ^ 0xFFFFFFFF)


def _ulid(milliseconds: int) -> str:
    """A name that sorts by time, github.com/ulid/spec."""
    number = milliseconds << 80 | secrets.randbits(80)
    return "".join(
        "0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> 5 * place & 31] for place in reversed(range(26))
    )
