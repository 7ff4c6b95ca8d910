"""A TCP proxy before a real server, that can be slow or cut."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Proxy:
    """Forwards 127.0.0.1:port to another port of this machine.

    Attributes:
        delay_s: waited before every piece that the server sends.
        cut_after: bytes from the client after which every connection is cut; None: never.
    """

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self.delay_s = 0.0
        self.cut_after: int | None = None
        self._sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, num_bytes: int | None) -> None:
        """Cut after so many further bytes from the client."""
        self._sent, self.cut_after = 0, num_bytes

    def close(self) -> None:
        self._closed = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                continue
            for source, sink, is_client in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._forward, args=(source, sink, is_client), daemon=True
                ).start()

    def _forward(self, source: socket.socket, sink: socket.socket, is_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_client and self.cut_after is not None:
                    room = max(0, self.cut_after - self._sent)
                    self._sent += len(data)
                    if room < len(data):
                        sink.sendall(data[:room])
                        break
                if not is_client and self.delay_s:
                    time.sleep(self.delay_s)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
