"""The protocol: what is packed comes back, and garbage is refused before anything is allocated."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grove.common.errors import MessageError
from grove.inference_server import Reply, ServerSettings
from grove.inference_server.channels import protocol
from tests.support.arithmetic_network import SPEC, THREE_SEATS, random_legal, random_rows

SENDER = ("worker", 77)


def header(**changes: object) -> protocol.Header:
    fields = {
        "protocol": 1,
        "kind": protocol.ROWS,
        "client": "w",
        "epoch": 1,
        "request": 2,
        "slot": 0,
        "rows": 3,
        "flags": 0,
    }
    return protocol.Header(**{**fields, **changes})


def test_header_round_trip() -> None:
    frame = protocol.pack_header(protocol.ROWS, SENDER, 5, 1, 128, protocol.RAGGED)
    assert protocol.unpack_header(frame) == protocol.Header(1, protocol.ROWS, "worker", 77, 5, 1, 128, protocol.RAGGED)


@pytest.mark.parametrize(
    ("fields", "fragment"),
    [
        ([2, 3, "w", 1, 2, 0, 3, 0], "protocol version 2"),
        ([True, 3, "w", 1, 2, 0, 3, 0], "protocol version"),
        ([1, 3, "w", 1, 2, 0, 3], "7 fields"),
        ([1, 3, 4, 1, 2, 0, 3, 0], "client name"),
        ([1, 3, "w" * 65, 1, 2, 0, 3, 0], "client name"),
        ([1, 3, "w\n", 1, 2, 0, 3, 0], "client name"),
        ([1, 3, "w\u00fc", 1, 2, 0, 3, 0], "client name"),
        ([1, 3, "w", -1, 2, 0, 3, 0], "not a number"),
        ([1, 3, "w", 1, 2, 0, 2**63, 0], "not a number"),
        ([1, 3, "w", 1, 2, 0, 1.5, 0], "not a number"),
        ([1, 3, "w", 1, 2, 0, True, 0], "not a number"),
        ([], "not a list"),
        ({}, "not a list"),
        ("x" * 300, "at most"),
    ],
)
def test_bad_headers(fields: object, fragment: str) -> None:
    with pytest.raises(MessageError, match=fragment):
        protocol.unpack_header(msgpack.packb(fields))


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_error_or_a_header(frame: bytes) -> None:
    for unpack in (protocol.unpack_header, protocol.unpack_hello):
        try:
            unpack(frame)
        except MessageError:
            continue


def test_hello_round_trip_and_refusals() -> None:
    hello = protocol.Hello(SPEC, 2, 128, "float16")
    assert protocol.unpack_hello(protocol.pack_hello(hello)) == hello
    fields = msgpack.unpackb(protocol.pack_hello(hello))
    for change in ({"window": 0}, {"window": "2"}, {"max_rows": True}, {"spec": 3}, {"spec": {}}, {"more": 1}):
        with pytest.raises(MessageError):
            protocol.unpack_hello(msgpack.packb({**fields, **change}))


def test_misfit_names_the_difference() -> None:
    server = ServerSettings()
    assert protocol.misfit(protocol.Hello(SPEC, 2, 128, "float32"), SPEC, server) == ""
    assert "'three' (server: 'connect_four')" in protocol.misfit(
        protocol.Hello(THREE_SEATS, 2, 128, "float32"), SPEC, server
    )
    assert "max_window" in protocol.misfit(protocol.Hello(SPEC, 65, 128, "float32"), SPEC, server)
    assert "max_request_rows" in protocol.misfit(protocol.Hello(SPEC, 2, 5000, "float32"), SPEC, server)
    wide = replace(SPEC, observation_shape=(1 << 20,))
    assert "max_message_mb" in protocol.misfit(protocol.Hello(wide, 2, 100, "float32"), wide, server)
    assert "float32, float16" in protocol.misfit(protocol.Hello(SPEC, 2, 128, "int8"), SPEC, server)


def test_rows_are_a_view_of_the_frame() -> None:
    rows = random_rows(THREE_SEATS, 3, 0)
    frame = rows.tobytes()
    taken = protocol.rows_of(header(), [frame], THREE_SEATS, 10)
    assert np.array_equal(taken, rows)
    assert not taken.flags.owndata


@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        ({"rows": 0}, [b""]),
        ({"rows": 11}, [bytes(84 * 11)]),
        ({}, [bytes(84 * 3 - 1)]),
        ({}, []),
        ({}, [bytes(84 * 3)] * 3),
        ({"flags": protocol.RAGGED}, [bytes(84 * 3)]),
    ],
)
def test_bad_rows(changes: dict, frames: list[bytes]) -> None:
    with pytest.raises(MessageError):
        protocol.rows_of(header(**changes), frames, SPEC, 10)


def test_legal_round_trip_and_refusals() -> None:
    legal = random_legal(SPEC, 3, 1)
    ragged = header(flags=protocol.RAGGED)
    taken = protocol.legal_of(ragged, [b"", *protocol.pack_legal(legal)], SPEC)
    assert taken is not None
    assert all(np.array_equal(a, b) for a, b in zip(taken, legal, strict=True))
    assert protocol.legal_of(header(), [b""], SPEC) is None
    bad = [
        ([0, 1, 2, 4], [0, 1, 2]),
        ([1, 1, 2, 3], [0, 1, 2]),
        ([0, 2, 1, 3], [0, 1, 2]),
        ([0, 1, 3], [0, 1, 2]),
        ([0, 1, 2, 3], [0, 1, 7]),
        ([0, 1, 2, 3], [0, -1, 2]),
        ([0, 8, 16, 24], [0] * 24),
    ]
    for offsets, actions in bad:
        with pytest.raises(MessageError):
            protocol.legal_of(ragged, [b"", *protocol.pack_legal((np.array(offsets), np.array(actions)))], SPEC)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 0.05)])
def test_reply_round_trip(dtype: str, tolerance: float) -> None:
    logits = np.linspace(-40, 40, 21, dtype=np.float32).reshape(3, 7)
    values = np.array([[0.25], [-1], [0]], np.float32)
    sent = Reply(9, logits, values, "abc", np.array([1], np.int32), 256, 11, 22, "oops")
    frames = [protocol.pack_reply(sent), logits.astype(dtype).tobytes(), values.tobytes()]
    got = protocol.unpack_reply(header(request=9, kind=protocol.REPLY), frames, SPEC, dtype, None)
    assert got._replace(logits=0, values=0, failed=0) == sent._replace(logits=0, values=0, failed=0)
    assert np.abs(got.logits - logits).max() <= tolerance
    assert np.array_equal(got.values, values)
    assert list(got.failed) == [1]
    assert got.logits.flags.writeable
    with pytest.raises(MessageError):
        protocol.unpack_reply(header(rows=2), frames, SPEC, dtype, None)
