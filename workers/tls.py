"""TLS for a worker: its contexts, made once and while the worker still may read the keys, and what a handshake has shown.

Every connection begins with `Tls.context`. In the middle of each handshake OpenSSL asks which certificate it is to be; the
answer is a context of the name that the client wants, made anew when its files have changed. So nobody has to replace a
context anywhere: not the acceptors, not asyncio. A changed file that is of no use leaves the old certificate in its place.

A key that only root can read is read once, before privileges are dropped; when its file changes, the worker can't, and asks
to be replaced: its successor can.
"""

from __future__ import annotations

import os
import re
import ssl
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from arbiter.workers.tlssocket import TlsSocket

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from arbiter.config.schema import Settings
    from arbiter.workers.contract import Log

    Customize: TypeAlias = Callable[[Callable[[], ssl.SSLContext]], Any]

LOOK: Final = 1.0
"""Seconds between two looks at the files, at most one for each handshake: a stat(2) each, 1 us."""
PROTOCOLS: Final = ("http/1.1",)
"""What is offered by ALPN (RFC 7301), unless a worker can do more: `Tls.offer`."""
_VERIFY: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsError(Exception):
    """A certificate, a key or a list of ciphers is of no use; the message names it and says why."""

    def __init__(self, told: str, *, is_unreadable: bool = False) -> None:
        super().__init__(told)
        self.is_unreadable = is_unreadable
        """Whether that is for want of a permission only."""


class _Pair(NamedTuple):
    """A certificate and its key."""

    certfile: str
    keyfile: str
    """Of the key; that of the certificate if the key is in there."""


class Tls:
    """The contexts of one worker."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        successor: Callable[[str], None] | None = None,
        customize: Customize | None = None,
    ) -> None:
        """Read all files.

        Args:
            settings: with a `certfile`.
            log: for what becomes of files that change.
            successor: see `when_unreadable`.
            customize: the operator's `ssl_context`.

        Raises:
            TlsError: one of the files, the ciphers, or what `customize` gives can't be used.
        """
        self._settings = settings
        self._customize = customize
        self._log = log
        self.when_unreadable = successor
        """Called, with the reason, when a file has changed that this process must not read; None: it is logged."""
        self._seen = _fingerprints(settings)
        self._is_in_doubt = False
        self._protocols: tuple[str, ...] = PROTOCOLS
        self._contexts = _make(settings, self._protocols, customize)
        self._next_look = time.monotonic() + LOOK
        pair = _Pair(settings.certfile or "", settings.keyfile or settings.certfile or "")
        self.context = _customized(settings, pair, self._protocols, customize)
        """For every connection, as long as the worker lives."""
        self._own_choice: Callable[..., int | None] | None = self.context.sni_callback
        """Of the operator's: the last word on a certificate."""
        self.context.sni_callback = self._choose

    def offer(self, *protocols: str) -> None:
        """Offer these by ALPN, the most wanted first, in place of `PROTOCOLS`."""
        self._protocols = protocols
        for context in (self.context, *self._contexts.values()):
            context.set_alpn_protocols(list(protocols))

    def secure(self, client: socket.SocketType, received: bytes) -> TlsSocket:
        """A connection under TLS over `client`, before its handshake; `received` has been read of it already."""
        return TlsSocket(client, self.context, received, is_ragged_fine=self._settings.suppress_ragged_eofs)

    def facts(self, connection: ssl.SSLObject | ssl.SSLSocket) -> dict[str, str]:
        """As `facts`, below."""
        return facts(connection, with_certificate=self.context.verify_mode is not ssl.CERT_NONE)

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        """In the middle of a handshake: the certificate for the name that the client wants."""
        if time.monotonic() >= self._next_look:
            self.refresh()
        contexts = self._contexts
        found = contexts[""]
        if name and len(contexts) > 1:
            name = name.lower().rstrip(".")
            wildcard = "*." + name.partition(".")[2]  # one label: RFC 6125 section 6.4.3
            found = contexts.get(name) or contexts.get(wildcard) or found
        connection.context = found
        return self._own_choice(connection, name, found) if self._own_choice else None

    def refresh(self) -> None:
        """Read the files anew if one has changed; if they are of no use, say so once and keep what there is."""
        self._next_look = time.monotonic() + LOOK
        seen = _fingerprints(self._settings)
        is_new, self._seen = seen != self._seen, seen
        if not is_new and not self._is_in_doubt:
            return
        self._is_in_doubt = False
        try:
            self._contexts = _make(self._settings, self._protocols, self._customize)
        except TlsError as error:
            if is_new:
                self._is_in_doubt = True  # certificate and key are replaced one after the other: judged at the next look
            elif error.is_unreadable and self.when_unreadable:
                self.when_unreadable(f"{error}, which has changed: its successor reads it as {_starter()}")
            else:
                advice = (
                    "Send HUP to the supervisor." if error.is_unreadable else "Put the right files there; no reload is needed."
                )
                self._log.error(
                    f"TLS files have changed, and can't be used: {error}. The old certificate stays in use. {advice}"
                )
        else:
            self._log.info("TLS files have changed: new connections get the new certificate")


_prepared: Tls | None = None


def prepare(settings: Settings, log: Log, customize: Customize | None = None) -> None:
    """Read all files, for `prepared`: called while the process may read them, in a worker or in the template of workers.

    Raises:
        TlsError: as `Tls`.
    """
    global _prepared  # noqa: PLW0603 - it is the process that may not read them any more
    _prepared = Tls(settings, log, customize=customize)


def prepared() -> Tls:
    """What this process, or the one that it was forked from, has read."""
    if _prepared is None:
        raise AssertionError("TLS is on, and nobody has prepared it")
    return _prepared


def check(settings: Settings) -> None:
    """Nothing, if TLS is off or all its files can be used.

    Raises:
        TlsError: as `Tls`.
    """
    if settings.certfile:
        _make(settings, PROTOCOLS)


def _starter() -> str:
    return "the user who started the supervisor"


def _pairs(settings: Settings) -> dict[str, _Pair]:
    """Certificates by server name; that of no name is for everybody else."""
    certfile = settings.certfile or ""
    named = {name: _Pair(cert, key or cert) for name, cert, key in settings.sni_certs}
    return {"": _Pair(certfile, settings.keyfile or certfile), **named}


def _fingerprints(settings: Settings) -> list[tuple[int, int, int] | None]:
    """What changes when one of the files does, through links as well: certbot and Kubernetes replace links."""
    files = [file for pair in _pairs(settings).values() for file in pair]
    return [_fingerprint(file) for file in (*files, *([settings.ca_certs] if settings.ca_certs else []))]


def _fingerprint(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _make(settings: Settings, protocols: tuple[str, ...], customize: Customize | None = None) -> dict[str, ssl.SSLContext]:
    return {name: _customized(settings, pair, protocols, customize) for name, pair in _pairs(settings).items()}


def _customized(settings: Settings, pair: _Pair, protocols: tuple[str, ...], customize: Customize | None) -> ssl.SSLContext:
    """A context with one certificate, or what the operator's function makes of it.

    Raises:
        TlsError: it can't be made.
    """
    if customize is None:
        return _context(settings, pair, protocols)
    try:
        context = customize(partial(_context, settings, pair, protocols))
    except TlsError:
        raise  # of the factory: it says more
    except Exception as error:
        raise TlsError(f"ssl_context raised {type(error).__name__}: {error}") from error
    if not isinstance(context, ssl.SSLContext):
        raise TlsError(f"ssl_context gave {type(context).__name__}: expected an ssl.SSLContext")
    return context


def _context(settings: Settings, pair: _Pair, protocols: tuple[str, ...]) -> ssl.SSLContext:
    """A context with one certificate.

    Raises:
        TlsError: it can't be made.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[settings.tls_minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could have us work without end (CVE-2011-1473)
    context.set_alpn_protocols(list(protocols))
    for file in dict.fromkeys(pair):
        _try_to_read(file)
    try:
        context.load_cert_chain(pair.certfile, pair.keyfile, _no_password)
    except (ssl.SSLError, ValueError) as error:
        raise TlsError(_mismatch(pair, error)) from error
    if settings.ciphers:
        try:
            context.set_ciphers(settings.ciphers)
        except ssl.SSLError as error:
            raise TlsError(f"ciphers {settings.ciphers!r}: OpenSSL knows none of them") from error
    if settings.ca_certs:
        _try_to_read(settings.ca_certs)
        try:
            context.load_verify_locations(settings.ca_certs)
        except ssl.SSLError as error:
            raise TlsError(f"{settings.ca_certs}: it holds no certificate in PEM form") from error
    context.verify_mode = _VERIFY[settings.cert_reqs]
    return context


def _try_to_read(file: str) -> None:
    try:
        with open(file, "rb") as opened:
            opened.read(1)
    except PermissionError as error:
        raise TlsError(f"{file}: {error.strerror}", is_unreadable=True) from error
    except OSError as error:
        raise TlsError(f"{file}: {error.strerror}") from error


def _no_password() -> str:
    """Instead of OpenSSL's prompt on the terminal, where nobody is."""
    raise ValueError("the key is encrypted, and nobody is there to be asked for its password; decrypt it")


def _mismatch(pair: _Pair, error: Exception) -> str:
    """What OpenSSL found wrong with a certificate and its key, in words."""
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
        return f"{pair.keyfile}: {error}"
    if reason == "KEY_VALUES_MISMATCH":
        return f"{pair.keyfile}: it is not the key of the certificate in {pair.certfile}"
    if reason:
        told = reason.lower().replace("_", " ")
        return f"{pair.certfile}: OpenSSL refuses it ({told})"
    with open(pair.certfile, "rb") as file:
        culprit = pair.keyfile if b"-----BEGIN CERTIFICATE-----" in file.read() else pair.certfile
    wanted = "a key" if culprit == pair.keyfile and culprit != pair.certfile else "a certificate and its key"
    return f"{culprit}: it does not hold {wanted} in PEM form"


# What a handshake has shown -------------------------------------------------------------------------------------------


def facts(connection: ssl.SSLObject | ssl.SSLSocket, *, with_certificate: bool) -> dict[str, str]:
    """What an application may want to know of a connection, under the names that Apache's mod_ssl gives.

    Args:
        connection: after its handshake.
        with_certificate: clients are asked for certificates.
    """
    cipher = connection.cipher()
    found = {
        "HTTPS": "on",
        "SSL_PROTOCOL": connection.version() or "",
        "SSL_CIPHER": cipher[0] if cipher else "",
        "SSL_CIPHER_USEKEYSIZE": str(cipher[2]) if cipher else "",
    }
    if with_certificate:
        found.update(_client_facts(connection))
    return found


def _client_facts(connection: ssl.SSLObject | ssl.SSLSocket) -> dict[str, str]:
    der = connection.getpeercert(binary_form=True)
    told = connection.getpeercert()
    if not der or not told:
        return {"SSL_CLIENT_VERIFY": "NONE"}
    return {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": _distinguished_name(told.get("subject", ())),
        "SSL_CLIENT_I_DN": _distinguished_name(told.get("issuer", ())),
        "SSL_CLIENT_M_SERIAL": str(told.get("serialNumber", "")),
        "SSL_CLIENT_V_START": str(told.get("notBefore", "")),
        "SSL_CLIENT_V_END": str(told.get("notAfter", "")),
        "SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(der),
    }


_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "emailAddress": "emailAddress",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""RFC 4514 section 3, and what OpenSSL writes for the e-mail address."""


def _distinguished_name(name: object) -> str:
    """``CN=alice,O=Example``: RFC 4514, the last part first, as mod_ssl and nginx write it."""
    parts = []
    for relative in reversed(name if isinstance(name, tuple) else ()):
        pairs = [f"{_SHORT.get(key, key)}={_escaped(value)}" for key, value in relative]
        parts.append("+".join(pairs))
    return ",".join(parts)


def _escaped(value: str) -> str:
    """Section 2.4. Control characters too, in hexadecimal: environ values go into logs and headers."""
    text = re.sub(r'[,+"\\<>;]', lambda match: "\\" + match[0], value)
    text = re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\{ord(match[0]):02X}", text)
    if text.startswith(("#", " ")):
        text = "\\" + text
    if text.endswith(" ") and len(value) > 1:
        text = text[:-1] + "\\ "
    return text.encode().decode("latin-1")  # as PEP 3333 wants what is not Latin-1
