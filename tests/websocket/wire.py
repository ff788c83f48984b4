"""What a client puts on the wire: frames, right or wrong, written without the code that is tested."""

from __future__ import annotations

import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = b"\x37\xfa\x21\x3d",
    width: int = 0,
    length: int | None = None,
) -> bytes:
    """One frame.

    Args:
        opcode: 0 to 15.
        payload: before it is masked.
        fin: the last frame of its message.
        rsv: the three reserved bits, 4 for RSV1.
        key: of the mask; None: not masked.
        width: bytes of the extended length, 2 or 8; 0: as few as the length needs.
        length: that is claimed; None: that of the payload.
    """
    size = len(payload) if length is None else length
    width = width or (0 if size < 126 else 2 if size < 65536 else 8)
    mask_bit = 0x80 if key is not None else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if width == 0:
        head += bytes([mask_bit | size])
    elif width == 2:
        head += bytes([mask_bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", size)
    if key is None:
        return head + payload
    if key == bytes(4):
        return head + key + payload
    return head + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


def close(code: int | None = None, reason: bytes = b"", **options: bytes | None) -> bytes:
    """A close frame."""
    key = options.get("key", b"\x01\x02\x03\x04")
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason, key=key)


def frames_of_server(data: bytes) -> list[tuple[int, bytes]]:
    """First byte and payload of each frame that a server sent; all of it must be whole frames, not masked, as short as can be."""
    found = []
    at = 0
    while at < len(data):
        first, second = data[at], data[at + 1]
        assert second < 128, "a server must not mask"
        at += 2
        size = second
        if second == 126:
            size = struct.unpack("!H", data[at : at + 2])[0]
            assert size > 125
            at += 2
        elif second == 127:
            size = struct.unpack("!Q", data[at : at + 8])[0]
            assert size > 65535
            at += 8
        assert len(data) >= at + size, "a frame is cut off"
        found.append((first, data[at : at + size]))
        at += size
    return found
