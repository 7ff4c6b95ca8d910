"""Messages between a vector environment and its workers: header, JSON, raw arrays; no pickle.

Those of every decision (STEP, OK) are the header alone: observations and actions go through shared
memory.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

START, MEMORY, RESET, STEP, RENDER, SAVE, LOAD = b"SMRTPDL"
OK, FAILED = b".!"
_HEADER = struct.Struct("<BqQQ")
Arrays = dict[str, NDArray[np.generic]]


class Silence(Exception):  # noqa: N818  # not an error yet: the receiver decides
    """Nothing, or not all of a message, came in time."""


@dataclass(frozen=True)
class Message:
    """One message."""

    kind: int
    row: int = 0
    """Of which environment, counted within the worker."""
    text: str = ""
    arrays: Arrays = field(default_factory=dict[str, NDArray[np.generic]])


class Channel:
    """One end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._timeout_s: float | None = None

    def send(self, message: Message) -> None:
        """Send. Raises OSError where nobody listens."""
        if not (message.text or message.arrays):
            self._socket.sendall(_HEADER.pack(message.kind, message.row, 0, 0))
            return
        shapes = [[name, a.dtype.str, a.shape] for name, a in message.arrays.items()]
        body = json.dumps([message.text, shapes]).encode()
        payload = b"".join(array.tobytes() for array in message.arrays.values())
        header = _HEADER.pack(message.kind, message.row, len(body), len(payload))
        self._socket.sendall(header + body + payload)

    def receive(self, timeout_s: float | None = None) -> Message:
        """Wait for a message.

        Raises:
            EOFError: the other end is closed.
            Silence: no whole message came in time.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        # Setting it is a system call: the same every time costs one, ever.
        if timeout_s != self._timeout_s:
            self._set_timeout(timeout_s)
        kind, row, body_size, payload_size = _HEADER.unpack(self._read(_HEADER.size, deadline))
        if not body_size:
            return Message(kind, row)
        text, shapes = json.loads(self._read(body_size, deadline))
        payload = self._read(payload_size, deadline)
        arrays: Arrays = {}
        offset = 0
        for name, dtype, shape in shapes:
            count = math.prod(shape)
            flat = np.frombuffer(payload, dtype, count=count, offset=offset)
            arrays[name] = flat.reshape(shape).copy()
            offset += flat.nbytes
        return Message(kind, row, text, arrays)

    def send_file(self, descriptor: int) -> None:
        """Hand over an open file."""
        socket.send_fds(self._socket, [b"f"], [descriptor])

    def receive_file(self) -> int:
        """Take over an open file and return its descriptor, the caller's to close."""
        _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        return descriptors[0]

    def close(self) -> None:
        """Close this end; the other one reads EOF."""
        self._socket.close()

    def _set_timeout(self, timeout_s: float | None) -> None:
        self._socket.settimeout(timeout_s)
        self._timeout_s = timeout_s

    def _read(self, size: int, deadline: float | None) -> bytes:
        parts: list[bytes] = []
        while size:
            try:
                part = self._socket.recv(size)
            except TimeoutError:
                raise Silence from None
            except ConnectionResetError:
                part = b""
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
            if size and deadline is not None:
                # At least a moment: what is there already is no silence, however late it is read.
                self._set_timeout(max(deadline - time.monotonic(), 1e-3))
        return parts[0] if len(parts) == 1 else b"".join(parts)
