"""Websocket frames, as they are written."""

from __future__ import annotations

import struct

# Frames of more bytes are not worth copying to save a system call.
LARGE_BYTES = 8_192
# What a frame of each small size begins with.
HEADS = tuple(bytes((0x81, size)) if size < 126 else struct.pack("!BBH", 0x81, 126, size) for size in range(1024))


def frame(payload: bytes) -> bytes:
    """Return a whole, unmasked websocket text message (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 1024:
        return HEADS[size] + payload
    if size < 65_536:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


def binary_frame(payload: bytes) -> bytes:
    """Return a whole, unmasked websocket binary message."""
    data = bytearray(frame(payload))
    data[0] = 0x82
    return bytes(data)


def pong_frame(payload: bytes) -> bytes:
    """Return the answer to a websocket ping (RFC 6455, section 5.5.3), whose payload has 125 bytes at most."""
    return bytes((0x8A, len(payload))) + payload
