"""A connection under TLS that never waits: records in memory, and a socket of whom only bytes are asked."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.interfaces.transport import HandshakeError, PlainHttpError

if TYPE_CHECKING:
    from collections.abc import Sequence


RECORD: Final = 16 * 1024
"""Most content of a TLS record: RFC 8446 section 5.1."""
_BLOCK: Final = 64 * 1024
"""Bytes to encrypt, or to decrypt, before the kernel is asked again."""


class TlsSocket:
    """A connection under TLS, with those methods of a socket that transports use; none of them ever waits.

    The records pass through memory, so whatever has come before the handshake (a PROXY header), and what was read of it too
    much, is no special case; and all that a read of the socket has brought is decrypted at once: nothing is ever pending
    where no poll sees it.
    """

    __slots__ = ("_aborted", "_begun", "_in", "_is_ragged_fine", "_out", "_received", "_socket", "_tls", "_unsent")

    def __init__(self, client: object, context: ssl.SSLContext, received: bytes, *, is_ragged_fine: bool) -> None:
        """Over `client`, a stream socket.

        Args:
            client: owned by this from now on.
            context: of a server.
            received: what has been read of the client already.
            is_ragged_fine: an end of file without TLS's own word for it counts as one.
        """
        self._socket: Any = client
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._is_ragged_fine = is_ragged_fine
        self._unsent = b""
        self._begun = False  # whether a first byte was seen, and was TLS
        self._aborted = False
        self._received = received

    @property
    def tls(self) -> ssl.SSLObject:
        """For `facts`, and what was agreed on."""
        return self._tls

    @property
    def unsent(self) -> int:
        """Bytes that were accepted by `send` and not by the kernel yet; see `flush`."""
        return len(self._unsent)

    def shake(self) -> bool:
        """Go on with the handshake; False: wait until the client has sent something, and call again.

        Raises:
            PlainHttpError: the client is not one of TLS's. It can be answered over the socket itself.
            HandshakeError: it has failed; the client was told.
            OSError: the connection is broken.
        """
        if self._received:
            received, self._received = self._received, b""
            self._take(received)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                try:
                    data = self._socket.recv(_BLOCK, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return False
                if not data:
                    raise HandshakeError(errno.ECONNRESET, "the client left in the middle of the handshake") from None
                self._take(data)
            except ssl.SSLError as error:
                self._aborted = True
                try:
                    self.flush()  # the alert
                except OSError:
                    pass
                raise HandshakeError(errno.EPROTO, (error.reason or "protocol error").lower().replace("_", " ")) from error
            else:
                self.flush()  # TLS 1.3: session tickets
                return True

    def _take(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            if data[0] != 0x16 and data[:1].isalpha():  # 22, a handshake record (RFC 8446 section 5.1), or a method
                self._aborted = True
                raise PlainHttpError(errno.EPROTO, "it speaks plain HTTP")
        self._in.write(data)

    def recv(self, size: int, _flags: int = 0) -> bytes:
        """What has come in about `size` bytes; ``b""`` when the client has closed.

        Raises:
            BlockingIOError: nothing is here.
            OSError: the connection is broken.
        """
        if self._aborted:  # nothing will be sent any more, so nothing need be understood
            data: bytes = self._socket.recv(_BLOCK, socket.MSG_DONTWAIT)
            return data
        pieces: list[bytes] = []
        while True:
            try:
                piece = self._tls.read(RECORD)
            except ssl.SSLWantReadError:
                if self._out.pending:  # an answer to a key update
                    self.flush()
                if pieces:
                    break
                data = self._socket.recv(size, socket.MSG_DONTWAIT)
                if not data:
                    self._aborted = True
                    if self._is_ragged_fine:
                        return b""
                    raise ConnectionAbortedError(errno.ECONNABORTED, "closed without a word of TLS's") from None
                self._in.write(data)
            except ssl.SSLError as error:
                if pieces:
                    break  # it fails again
                self._aborted = True
                raise ConnectionAbortedError(errno.ECONNABORTED, f"TLS: {error.reason}") from error
            else:
                if not piece:
                    break
                pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def send(self, data: bytes | bytearray | memoryview, _flags: int = 0) -> int:
        """Accept some bytes, which are sent or `unsent` then; how many.

        Raises:
            BlockingIOError: none, since the client does not read.
            OSError: the connection is broken.
        """
        return self.sendmsg((memoryview(data),))

    def sendmsg(self, views: Sequence[memoryview], _ancillary: tuple[()] = (), _flags: int = 0) -> int:
        """As `send`, for several pieces, none of which is empty."""
        # A client that keeps up gets large blocks; one that doesn't gets small ones, each of which shows that it reads.
        room = RECORD if self._unsent else _BLOCK
        if not self.flush():
            raise BlockingIOError(errno.EAGAIN, "the client does not read")
        accepted = 0
        for view in views:
            accepted += self._encrypt(view[: room - accepted])
            if accepted >= room:
                break
        self.flush()
        return accepted

    def _encrypt(self, view: memoryview) -> int:
        try:
            return self._tls.write(view) if view else 0  # an empty piece only waits for what is unsent
        except ssl.SSLError as error:
            self._aborted = True
            raise ConnectionAbortedError(errno.ECONNABORTED, f"TLS: {error.reason}") from error

    def flush(self) -> bool:
        """Send what was accepted, as far as the client reads; whether that was all.

        Raises:
            OSError: the connection is broken.
        """
        if self._out.pending:
            self._unsent += self._out.read()
        if not self._unsent:
            return True
        try:
            sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        self._unsent = self._unsent[sent:]
        return not self._unsent

    def getsockname(self) -> object:
        """Its own address."""
        return self._socket.getsockname()

    def fileno(self) -> int:
        """Its descriptor, for a poll."""
        number: int = self._socket.fileno()
        return number

    @property
    def family(self) -> int:
        """As a socket."""
        family: int = self._socket.family
        return family

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """As a socket."""
        value: bytes = self._socket.getsockopt(level, option, size)
        return value

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """As a socket. SO_LINGER announces a reset: then nobody is told that this is the end."""
        if option == socket.SO_LINGER:
            self._aborted = True
        self._socket.setsockopt(level, option, value)

    def shutdown(self, how: int) -> None:
        """Send nothing more, and say so (RFC 8446 section 6.1)."""
        self._say_end()
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close it; the client is told that this is the end, and not a cut, unless it is one."""
        if self._socket.fileno() >= 0:
            self._say_end()
            self._socket.close()

    def _say_end(self) -> None:
        if self._aborted or not self._begun:
            return
        self._aborted = True  # once
        try:
            self._tls.unwrap()
        except (OSError, ValueError):  # ssl.SSLError is an OSError: it wants the client's word, which we don't wait for
            pass
        try:
            self.flush()
        except OSError:
            pass
