"""Bytes ↔ messages: `protocol.md` §3.1, §3.3, P-04, P-05, P-08, P-102, and RFC 6455.

The judge of what we write, and the maker of what we read, is the frame class of websockets, not our own code.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import tracemalloc
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol

from iii_anyio._protocol import framing as module
from iii_anyio._protocol.framing import MAX_MESSAGE, MAX_SENT_FRAME, Framing
from iii_anyio.errors import LinkClosed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KIB, MIB = 1024, 1024 * 1024
BOUNDARIES = [0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 262_144, MIB - 1, MIB, MIB + 1]

roles = pytest.mark.parametrize("is_client", [True, False], ids=["client", "engine"])


def frame(opcode: Opcode, payload: bytes = b"", *, to_client: bool, fin: bool = True, rsv1: bool = False) -> bytes:
    return raw(Frame(opcode, payload, fin, rsv1), to_client=to_client)


def raw(frame: Frame, *, to_client: bool) -> bytes:
    # Past `Frame.check`, so that wrong frames can be made too.
    frame.check = lambda: None  # type: ignore[method-assign]
    return frame.serialize(mask=not to_client)


def close_frame(code: int, reason: str = "", *, to_client: bool) -> bytes:
    return frame(Opcode.CLOSE, Close(code, reason).serialize(), to_client=to_client)


def written(runs: Iterable[Iterable[bytes | memoryview]]) -> bytes:
    return b"".join(bytes(part) for run in runs for part in run)


def frames_of(data: bytes, *, from_client: bool) -> list[Frame]:
    """What websockets reads in these bytes; it fails on anything that is not allowed."""
    judge = Protocol(SERVER if from_client else CLIENT, max_size=None)
    judge.receive_data(data)
    assert judge.parser_exc is None
    frames = judge.events_received()
    assert not judge.reader.buffer
    return [event for event in frames if isinstance(event, Frame)]


def in_chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def receive_all(framing: Framing, chunks: Iterable[bytes]) -> list[bytes]:
    return [message for chunk in chunks for message in framing.receive(chunk)]


def text_of(size: int) -> bytes:
    return (b"0123456789" * (size // 10 + 1))[:size]


# -- messages through -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", BOUNDARIES)
@roles
def test_a_message_of_every_size_arrives_at_the_other_side(is_client: bool, size: int) -> None:
    sender, receiver = Framing(is_client=is_client), Framing(is_client=not is_client)
    message = text_of(size)
    data = written(sender.send([message, b"next"]))
    assert receive_all(receiver, in_chunks(data, 65_536)) == [message, b"next"]
    assert receiver.closed is None


@pytest.mark.parametrize("chunk", [1, 7, 65_536])
@roles
def test_a_frame_longer_than_64_kib_may_come_in_any_pieces(is_client: bool, chunk: int) -> None:
    data = frame(Opcode.TEXT, text_of(70_001), to_client=is_client) + frame(Opcode.TEXT, b"2", to_client=is_client)
    assert receive_all(Framing(is_client=is_client), in_chunks(data, chunk)) == [text_of(70_001), b"2"]


@pytest.mark.parametrize("size", [MAX_SENT_FRAME - 1, MAX_SENT_FRAME])
def test_up_to_16_mib_a_client_sends_one_text_frame(size: int) -> None:
    """P-05."""
    (only,) = frames_of(written(Framing(is_client=True).send([text_of(size)])), from_client=True)
    assert (only.opcode, only.fin, len(only.data)) == (Opcode.TEXT, True, size)


def test_beyond_16_mib_a_client_sends_fragments_of_at_most_1_mib() -> None:
    """P-05: first opcode 1 without FIN, then 0, the last with FIN."""
    message = text_of(MAX_SENT_FRAME + 1)
    frames = frames_of(written(Framing(is_client=True).send([message])), from_client=True)
    assert [f.opcode for f in frames] == [Opcode.TEXT] + [Opcode.CONT] * 16
    assert [f.fin for f in frames] == [False] * 16 + [True]
    assert max(len(f.data) for f in frames) <= MIB
    assert b"".join(f.data for f in frames) == message


def test_fragments_are_cut_between_characters() -> None:
    """P-05. 1 MiB is no multiple of three, so each cut would fall into a character."""
    message = ("€" * (MAX_SENT_FRAME // 3 + 1)).encode()
    frames = frames_of(written(Framing(is_client=True).send([message])), from_client=True)
    assert b"".join(f.data for f in frames) == message
    for each in frames:
        bytes(each.data).decode()
        assert len(each.data) <= MIB


@pytest.mark.parametrize("method", ["send", "send_binary"])
def test_what_is_no_text_is_cut_somewhere(method: str) -> None:
    message = b"\x80" * (MAX_SENT_FRAME + 5)
    frames = frames_of(written(getattr(Framing(is_client=True), method)([message])), from_client=True)
    assert b"".join(f.data for f in frames) == message
    assert {len(f.data) for f in frames[:-1]} == ({MIB - 3} if method == "send" else {MIB})


def test_an_engine_sends_one_frame_whatever_the_size() -> None:
    """P-102; and a client takes it (P-04)."""
    message = text_of(17 * MIB)
    data = written(Framing(is_client=False).send([message]))
    (only,) = frames_of(data, from_client=False)
    assert (only.opcode, only.fin) == (Opcode.TEXT, True)
    assert receive_all(Framing(is_client=True), in_chunks(data, 300_000)) == [message]


def test_an_engine_takes_a_fragmented_message() -> None:
    """P-102."""
    message = text_of(MAX_SENT_FRAME + 1)
    data = written(Framing(is_client=True).send([message]))
    assert receive_all(Framing(is_client=False), in_chunks(data, 100_000)) == [message]


def test_a_client_takes_a_single_frame_of_64_mib() -> None:
    """P-04."""
    receiver = Framing(is_client=True)
    data = memoryview(frame(Opcode.TEXT, bytes(MAX_MESSAGE), to_client=True))
    (message,) = receive_all(receiver, (bytes(data[at : at + MIB]) for at in range(0, len(data), MIB)))
    assert len(message) == MAX_MESSAGE


@roles
def test_small_messages_are_written_at_once(is_client: bool) -> None:
    sender = Framing(is_client=is_client)
    (run,) = list(sender.send([b"a"] * 64))
    (data,) = run
    assert [f.data for f in frames_of(bytes(data), from_client=is_client)] == [b"a"] * 64


@roles
def test_a_large_batch_is_written_in_blocks_in_order(is_client: bool) -> None:
    batch = [text_of(60_000)] * 6 + [text_of(100_000)] + [b"last"]
    runs = [[bytes(part) for part in run] for run in Framing(is_client=is_client).send(batch)]
    assert len(runs) > 2
    assert max(len(part) for run in runs for part in run) < MIB
    data = b"".join(part for run in runs for part in run)
    assert [f.data for f in frames_of(data, from_client=is_client)] == batch


@roles
def test_every_run_is_made_of_whole_frames(is_client: bool) -> None:
    """P-08: between two runs a control frame may be written."""
    sender = Framing(is_client=is_client)
    messages = [b"a", text_of(100_000), text_of(17 * MIB), b"b"]
    data = b""
    for run in sender.send(messages):
        data += b"".join(bytes(part) for part in run)
        sender.ping(b"between")
        data += b"".join(sender.data_to_send())
    receiver = Framing(is_client=not is_client, max_frame=MAX_MESSAGE)
    assert receive_all(receiver, in_chunks(data, MIB)) == messages


@roles
def test_nothing_to_send_is_nothing_to_write(is_client: bool) -> None:
    assert list(Framing(is_client=is_client).send([])) == []


def test_each_client_frame_has_a_mask_key_of_its_own() -> None:
    data = written(Framing(is_client=True).send([b"\0" * 8] * 3000))
    keys = {data[at + 2 : at + 6] for at in range(0, len(data), 14)}
    assert len(keys) > 2990
    assert [f.data for f in frames_of(data, from_client=True)] == [b"\0" * 8] * 3000


def test_text_is_told_from_binary() -> None:
    """§3.1: telemetry is binary; on channels both kinds are items."""
    engine = Framing(is_client=False)
    data = b"".join(
        [
            frame(Opcode.TEXT, b"t", to_client=False),
            frame(Opcode.BINARY, b"b", to_client=False),
            frame(Opcode.BINARY, b"b1", to_client=False, fin=False),
            frame(Opcode.CONT, b"b2", to_client=False),
            frame(Opcode.BINARY, bytes(70_000), to_client=False),
            frame(Opcode.TEXT, text_of(70_000), to_client=False),
        ]
    )
    items = [item for chunk in in_chunks(data, 50_000) for item in engine.receive_typed(chunk)]
    assert [is_text for is_text, _ in items] == [True, False, False, False, True]
    assert [len(payload) for _, payload in items] == [1, 1, 4, 70_000, 70_000]


def test_binary_messages_are_sent_as_binary_frames() -> None:
    data = written(Framing(is_client=True).send_binary([b"OTLP{}", b""]))
    assert [(f.opcode, bytes(f.data)) for f in frames_of(data, from_client=True)] == [
        (Opcode.BINARY, b"OTLP{}"),
        (Opcode.BINARY, b""),
    ]


NOT_UTF_8 = [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc3" + bytes(70_000)]  # a half, a surrogate, a long frame


@pytest.mark.parametrize("to_client", [False, True], ids=["engine", "worker"])
@pytest.mark.parametrize("payload", NOT_UTF_8, ids=["byte", "half", "surrogate", "long"])
def test_text_that_is_not_utf_8_fails_the_connection_with_1007(payload: bytes, to_client: bool) -> None:
    receiver = Framing(is_client=to_client)
    good = frame(Opcode.TEXT, "ä".encode(), to_client=to_client)
    bad = frame(Opcode.TEXT, payload, to_client=to_client)
    assert receiver.receive(good + bad + good) == ["ä".encode()]  # what came before counts
    assert receiver.closed == (1007, "text is not UTF-8")
    assert receiver.data_to_send() != []
    assert receiver.receive(good) == []


def test_text_in_fragments_is_checked_as_a_whole() -> None:
    receiver = Framing(is_client=True)
    first, second = "ä".encode()[:1], "ä".encode()[1:]

    def fragments(*parts: bytes) -> bytes:
        last = len(parts) - 1
        return b"".join(
            Frame(Opcode.CONT if index else Opcode.TEXT, part, index == last).serialize(mask=False)
            for index, part in enumerate(parts)
        )

    assert receiver.receive(fragments(first, second)) == ["ä".encode()]
    assert receiver.receive(fragments(first, b"") + fragments(b"later")) == []
    assert receiver.closed == (1007, "text is not UTF-8")


def test_binary_messages_may_hold_any_bytes() -> None:
    receiver = Framing(is_client=True)
    assert receiver.receive(frame(Opcode.BINARY, b"\xff", to_client=True)) == [b"\xff"]
    assert receiver.closed is None


# -- any split, any mixture -------------------------------------------------------------------------------------------

controls = st.builds(Frame, st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125))
data_opcodes = st.sampled_from([Opcode.TEXT, Opcode.BINARY])


@st.composite
def conversations(draw: st.DrawFn) -> list[Frame]:
    """Legal frames: whole and fragmented messages, control frames anywhere."""
    frames: list[Frame] = []
    for _ in range(draw(st.integers(0, 6))):
        frames += draw(st.lists(controls, max_size=2))
        opcode = draw(data_opcodes)
        payloads = st.binary(max_size=200) if opcode is Opcode.BINARY else st.text(max_size=100).map(str.encode)
        parts = draw(st.lists(payloads, min_size=1, max_size=4))
        for index, part in enumerate(parts):
            frames.append(Frame(opcode if index == 0 else Opcode.CONT, part, index == len(parts) - 1))
            if index < len(parts) - 1:
                frames += draw(st.lists(controls, max_size=1))
    return frames


def messages_in(frames: list[Frame]) -> list[tuple[bool, bytes]]:
    found: list[tuple[bool, bytes]] = []
    parts: list[bytes] = []
    is_text = True
    for each in frames:
        if each.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            is_text = is_text if each.opcode is Opcode.CONT else each.opcode is Opcode.TEXT
            parts.append(bytes(each.data))
            if each.fin:
                found.append((is_text, b"".join(parts)))
                parts.clear()
    return found


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [part for a, b in itertools.pairwise(edges) if (part := data[a:b])]


@contextmanager
def lengths_shrunk() -> Iterator[None]:
    """What is a long message becomes short, so that examples take the ways of long ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name, length in (("_SMALL", 8), ("_JOINED", 40), ("FRAGMENT", 16), ("MAX_SENT_FRAME", 60)):
            patch.setattr(module, name, length)
        yield


@given(conversations(), st.lists(st.integers(0, 10_000), max_size=30), st.booleans(), st.booleans())
def test_the_same_messages_come_however_the_bytes_are_split(
    frames: list[Frame], cuts: list[int], is_client: bool, shrunk: bool
) -> None:
    data = b"".join(each.serialize(mask=not is_client) for each in frames)
    with lengths_shrunk() if shrunk else nullcontext():
        receiver = Framing(is_client=is_client, max_frame=1_000_000)  # the engine's limit shrinks with the rest
        received = [item for chunk in split(data, cuts) for item in receiver.receive_typed(chunk)]
    assert received == messages_in(frames)
    assert receiver.pongs == [f.data for f in frames if f.opcode is Opcode.PONG]
    answers = frames_of(b"".join(receiver.data_to_send()), from_client=is_client)
    assert [(f.opcode, f.data) for f in answers] == [(Opcode.PONG, f.data) for f in frames if f.opcode is Opcode.PING]
    assert receiver.closed is None


@given(st.lists(st.lists(st.text(max_size=100), max_size=5), max_size=6), st.data())
def test_two_sides_understand_each_other(batches: list[list[str]], data: st.DataObject) -> None:
    with lengths_shrunk():
        sides = Framing(is_client=True, max_frame=1000), Framing(is_client=False, max_frame=1000)
        for texts in batches:
            batch = [text.encode() for text in texts]
            sender, receiver = sides if data.draw(st.booleans()) else sides[::-1]
            output = written(sender.send(batch))
            for each in frames_of(output, from_client=sender is sides[0]):
                bytes(each.data).decode()
            chunks = split(output, data.draw(st.lists(st.integers(0, 2000), max_size=4)))
            assert receive_all(receiver, chunks) == batch


@given(st.lists(st.binary(max_size=100), max_size=10), st.booleans())
@settings(max_examples=300)
def test_no_bytes_whatever_raise(chunks: list[bytes], is_client: bool) -> None:
    receiver = Framing(is_client=is_client)
    for chunk in chunks:
        receiver.receive(chunk)
    receiver.receive(b"")
    assert receiver.closed is not None
    receiver.data_to_send()


headers = st.builds(
    lambda first, length, mask: bytes([first, (0x80 if mask else 0) | length]),
    st.sampled_from([0x81, 0x82, 0x01, 0x80, 0x00, 0x88, 0x89, 0x8A, 0x09, 0xC1, 0x83, 0x8B]),
    st.integers(0, 127),
    st.booleans(),
)


@given(st.lists(st.tuples(headers, st.binary(max_size=140)), max_size=8), st.booleans(), st.lists(st.integers(0, 999)))
@settings(max_examples=300)
def test_almost_frames_never_raise_and_the_split_does_not_matter(
    pieces: list[tuple[bytes, bytes]], is_client: bool, cuts: list[int]
) -> None:
    data = b"".join(header + payload for header, payload in pieces)
    whole, parts = Framing(is_client=is_client), Framing(is_client=is_client)
    at_once = receive_all(whole, [data, b""])
    assert receive_all(parts, [*split(data, cuts), b""]) == at_once
    assert parts.closed == whole.closed


# -- control frames ---------------------------------------------------------------------------------------------------


@roles
def test_a_ping_is_answered(is_client: bool) -> None:
    framing = Framing(is_client=is_client)
    assert framing.receive(frame(Opcode.PING, b"p", to_client=is_client)) == []
    (pong,) = frames_of(b"".join(framing.data_to_send()), from_client=is_client)
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"p")
    assert framing.data_to_send() == []


@roles
def test_our_ping_brings_its_payload_back_as_a_pong(is_client: bool) -> None:
    near, far = Framing(is_client=is_client), Framing(is_client=not is_client)
    near.ping(b"1")
    far.receive(b"".join(near.data_to_send()))
    near.receive(b"".join(far.data_to_send()))
    assert near.pongs == [b"1"]


def test_only_the_newest_pongs_are_kept() -> None:
    """P-09: extra pongs are tolerated; the engine sends two for each ping."""
    framing = Framing(is_client=True)
    for number in range(200):
        framing.receive(frame(Opcode.PONG, b"%d" % number, to_client=True))
    assert framing.pongs[-1] == b"199"
    assert len(framing.pongs) == 64


@roles
def test_a_close_frame_ends_the_messages_and_is_answered(is_client: bool) -> None:
    framing = Framing(is_client=is_client)
    last = frame(Opcode.TEXT, b"last", to_client=is_client)
    data = last + close_frame(1001, "bye", to_client=is_client) + last
    assert framing.receive(data) == [b"last"]
    assert framing.closed == (1001, "bye")
    assert framing.is_finished
    (echo,) = frames_of(b"".join(framing.data_to_send()), from_client=is_client)
    assert (echo.opcode, Close.parse(bytes(echo.data))) == (Opcode.CLOSE, Close(1001, "bye"))
    assert framing.receive(last) == []
    assert framing.receive(b"") == []
    assert framing.closed == (1001, "bye")


@roles
def test_a_close_frame_may_come_between_the_fragments_of_a_message(is_client: bool) -> None:
    """RFC 6455 §5.4; Autobahn 7.1.5."""
    framing = Framing(is_client=is_client)
    begun = frame(Opcode.TEXT, b"never ", to_client=is_client, fin=False)
    end = frame(Opcode.CONT, b"ended", to_client=is_client)
    assert framing.receive(begun + close_frame(1000, "bye", to_client=is_client) + end) == []
    assert framing.closed == (1000, "bye")
    (answer,) = frames_of(b"".join(framing.data_to_send()), from_client=is_client)
    assert answer.data == Close(1000, "bye").serialize()


@roles
def test_a_close_frame_without_status_is_1005(is_client: bool) -> None:
    """§6.7: the engine's refusals look like this."""
    framing = Framing(is_client=is_client)
    framing.receive(frame(Opcode.CLOSE, to_client=is_client))
    assert framing.closed == (1005, "")


@roles
@pytest.mark.parametrize("before", [b"", b"\x81"], ids=["at once", "in a header"])
def test_the_end_of_the_stream_without_a_close_frame_is_1006(is_client: bool, before: bytes) -> None:
    """§6.7: engine shutdown and eviction."""
    framing = Framing(is_client=is_client)
    framing.receive(before)
    framing.receive(b"")
    assert framing.closed == (1006, "")
    assert framing.is_finished
    framing.receive(b"")
    assert framing.data_to_send() == []


@roles
def test_the_stream_may_end_in_a_long_payload(is_client: bool) -> None:
    framing = Framing(is_client=is_client)
    assert framing.receive(frame(Opcode.TEXT, bytes(100_000), to_client=is_client)[:90_000]) == []
    framing.receive(b"")
    assert framing.closed == (1006, "")


@roles
def test_our_close_frame_carries_code_and_reason(is_client: bool) -> None:
    framing = Framing(is_client=is_client)
    framing.close(1000, "done")
    framing.close(1011, "again")
    (only,) = frames_of(b"".join(framing.data_to_send()), from_client=is_client)
    assert Close.parse(bytes(only.data)) == Close(1000, "done")


def test_a_long_reason_is_cut_between_characters() -> None:
    framing = Framing(is_client=False)
    framing.close(1000, "€" * 100)
    (only,) = frames_of(b"".join(framing.data_to_send()), from_client=False)
    assert Close.parse(bytes(only.data)).reason == "€" * 41


@pytest.mark.parametrize("code", [1005, 1006, 1015, 0, 2999, 70_000])
def test_a_code_that_must_not_be_sent_makes_a_close_frame_without_status(code: int) -> None:
    framing = Framing(is_client=False)
    framing.close(code)
    (only,) = frames_of(b"".join(framing.data_to_send()), from_client=False)
    assert only.data == b""


@roles
def test_messages_still_arrive_after_our_close_frame(is_client: bool) -> None:
    framing = Framing(is_client=is_client)
    framing.close()
    late = frame(Opcode.TEXT, b"late", to_client=is_client)
    assert framing.receive(late + close_frame(1000, to_client=is_client)) == [b"late"]
    assert framing.closed == (1000, "")
    assert len(framing.data_to_send()) == 1, "one close frame, and no second one as an answer"


@roles
def test_nothing_is_sent_after_our_close_frame(is_client: bool) -> None:
    framing = Framing(is_client=is_client)
    framing.close(4000, "enough")
    for attempt in (lambda: framing.send([b""]), lambda: framing.send_binary([b""]), lambda: framing.ping(b"")):
        with pytest.raises(LinkClosed) as caught:
            attempt()
        assert (caught.value.code, caught.value.reason) == (4000, "enough")


@pytest.mark.parametrize(
    ("last_words", "code"), [(close_frame(1001, to_client=True), 1001), (b"\x70\x00", 1002), (b"", 1006)]
)
def test_nothing_is_sent_after_the_peers_end(last_words: bytes, code: int) -> None:
    framing = Framing(is_client=True)
    framing.receive(last_words)
    with pytest.raises(LinkClosed) as caught:
        framing.send([b"x"])
    assert caught.value.code == code
    framing.data_to_send()
    framing.close()
    assert framing.data_to_send() == []


# -- a peer that breaks the rules -------------------------------------------------------------------------------------


def wrong_frames(to_client: bool) -> dict[str, tuple[bytes, int]]:
    def make(opcode: Opcode, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
        return frame(opcode, payload, to_client=to_client, fin=fin, rsv1=rsv1)

    whole, start = make(Opcode.TEXT, b"x"), make(Opcode.TEXT, b"x", fin=False)
    return {
        "wrong masking": (frame(Opcode.TEXT, b"x", to_client=not to_client), 1002),
        "reserved bit": (make(Opcode.TEXT, b"x", rsv1=True), 1002),
        "unknown opcode": (bytes([0x83, 0 if to_client else 0x80]) + bytes(4), 1002),
        "long ping": (make(Opcode.PING, bytes(126)), 1002),
        "fragmented ping": (make(Opcode.PING, fin=False), 1002),
        "continuation of nothing": (make(Opcode.CONT, b"x"), 1002),
        "message in a message": (start + whole, 1002),
        "long message in a message": (start + make(Opcode.BINARY, bytes(70_000)), 1002),
        "close frame of one byte": (make(Opcode.CLOSE, b"\x03"), 1002),
        "close code 1006": (make(Opcode.CLOSE, b"\x03\xee"), 1002),
        "close reason in latin-1": (make(Opcode.CLOSE, b"\x03\xe8\xe9"), 1007),
    }


@roles
@pytest.mark.parametrize("what", list(wrong_frames(to_client=True)))
@pytest.mark.parametrize("chunk", [1, 100_000])
def test_a_violation_closes_with_the_code_for_it(is_client: bool, what: str, chunk: int) -> None:
    data, code = wrong_frames(is_client)[what]
    framing = Framing(is_client=is_client)
    good = frame(Opcode.TEXT, b"good", to_client=is_client)
    assert receive_all(framing, in_chunks(good + data + good, chunk)) == [b"good"]
    assert framing.closed is not None
    assert framing.closed[0] == code
    assert not framing.is_finished, "the peer has neither closed nor gone"
    *_, last = frames_of(b"".join(framing.data_to_send()), from_client=is_client)
    assert Close.parse(bytes(last.data)).code == code
    framing.receive(b"")
    assert framing.is_finished
    assert framing.closed[0] == code


def test_a_close_frame_inside_a_message_closes() -> None:
    framing = Framing(is_client=True)
    data = frame(Opcode.TEXT, b"x", to_client=True, fin=False) + close_frame(1000, to_client=True)
    assert framing.receive(data) == []
    assert framing.closed == (1000, "")


@pytest.mark.parametrize(
    ("is_client", "size", "code"),
    [(True, MAX_MESSAGE + 1, 1009), (False, MAX_SENT_FRAME + 1, 1009), (True, 2**63 - 1, 1009), (False, 2**63, 1009)],
)
def test_an_announced_frame_beyond_the_limit_fails_at_its_header(is_client: bool, size: int, code: int) -> None:
    """§3.3, P-04, P-102."""
    framing = Framing(is_client=is_client)
    framing.receive(bytes([0x81, 0x7F if is_client else 0xFF]) + size.to_bytes(8, "big"))
    assert framing.closed is not None
    assert framing.closed[0] == code
    (last,) = frames_of(b"".join(framing.data_to_send()), from_client=is_client)
    assert Close.parse(bytes(last.data)).code == code


def test_frames_at_the_limit_pass_and_one_byte_more_does_not() -> None:
    for size, closed in ((100, None), (101, 1009)):
        framing = Framing(is_client=False, max_message=1000, max_frame=100)
        received = framing.receive(frame(Opcode.TEXT, bytes(size), to_client=False))
        assert (len(received), framing.closed and framing.closed[0]) == (int(closed is None), closed)


def test_the_fragments_of_a_message_count_together() -> None:
    framing = Framing(is_client=False, max_message=250, max_frame=100)
    start, more = (frame(op, bytes(100), to_client=False, fin=False) for op in (Opcode.TEXT, Opcode.CONT))
    assert framing.receive(start + more) == []
    assert framing.closed is None
    framing.receive(more)
    assert framing.closed is not None
    assert framing.closed[0] == 1009


# -- memory and means -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident size where Linux shows it")
def test_announcing_64_mib_and_sending_nothing_takes_no_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    framings = [Framing(is_client=True) for _ in range(8)]
    before = resident()
    for each in framings:
        each.receive(b"\x81\x7f" + MAX_MESSAGE.to_bytes(8, "big") + b"x")
    assert resident() - before < 32 * MIB


@roles
def test_one_copy_of_a_payload_is_alive_while_it_arrives(is_client: bool) -> None:
    size = 8 * MIB
    chunks = list(in_chunks(frame(Opcode.TEXT, bytes(size), to_client=is_client), 65_536))
    framing = Framing(is_client=is_client)
    tracemalloc.start()
    try:
        (message,) = receive_all(framing, chunks)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(message) == size
    assert peak < 1.2 * size


def test_tiny_fragments_take_no_more_memory_than_the_message() -> None:
    count = 20_000
    start, more = (frame(op, b"x", to_client=True, fin=False) for op in (Opcode.TEXT, Opcode.CONT))
    data = start + more * count
    framing = Framing(is_client=True)
    tracemalloc.start()
    try:
        receive_all(framing, in_chunks(data, 1000))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4 * count
    assert framing.receive(frame(Opcode.CONT, b"end", to_client=True)) == [b"x" * (count + 1) + b"end"]


def test_a_long_message_is_masked_piece_by_piece() -> None:
    message = bytes(8 * MIB)
    framing = Framing(is_client=True)
    tracemalloc.start()
    try:
        for run in framing.send([message]):
            for part in run:
                assert len(part) <= MIB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * MIB


def test_it_works_without_the_c_extension_of_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    assert module.__file__ is not None
    spec = importlib.util.spec_from_file_location("iii_anyio._protocol.framing_without_c", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    slow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slow)
    assert slow.apply_mask.__module__ == "websockets.utils"
    data = written(slow.Framing(is_client=True).send([b"x", text_of(100_000)]))
    assert receive_all(slow.Framing(is_client=False), in_chunks(data, 30_001)) == [b"x", text_of(100_000)]
