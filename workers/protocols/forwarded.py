"""What proxies say of a request: ``Forwarded`` (RFC 7239), ``X-Forwarded-*``, and fields that become variables.

A field is believed only of a trusted peer, and of what several proxies have added, only what trusted ones did: hops are walked
from the right, and the first that is not trusted is the client. Whoever stands before it may have made everything else up.

What could be read in two ways is refused: two fields that contradict each other on the scheme or the client, a malformed
``Forwarded``. A proxy that sets one kind of field and lets the other pass would otherwise let its clients choose.

Pure but for the wall clock, to which proxies' own times are compared.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, NamedTuple

from arbiter.workers.protocols.grammar import TCHAR
from arbiter.workers.protocols.policy import Refusal, is_host
from arbiter.workers.protocols.trust import plain_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.protocols.trust import Trust

_FORWARDED: Final = b"forwarded"
_FOR: Final = b"x-forwarded-for"
_HOST: Final = b"x-forwarded-host"
_PORT: Final = b"x-forwarded-port"
_PREFIX: Final = b"x-forwarded-prefix"
_STARTS: Final = (b"x-request-start", b"x-queue-start")
"""When the first proxy has got the request: Heroku's and New Relic's names."""

# forwarded-pair (RFC 7239 section 4); a quoted-string as in RFC 9110 section 5.6.4.
_PAIR: Final = re.compile(
    rb'[ \t]*+(%b++)=(?:(%b++)|"((?:[\t !\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -~\x80-\xff])*+)")[ \t]*+' % (TCHAR, TCHAR)
)
_V6_NODE: Final = re.compile(r"\[([^\]]+)\](?::(\d{1,5}))?")
_V4_NODE: Final = re.compile(r"([\d.]+)(?::(\d{1,5}))?")
# No "//" first, which would be another host to a browser, and no dots to climb with.
_PREFIX_FORM: Final = re.compile(rb"/(?!/)(?!.*(?:^|/)\.\.?(?:/|$))[\x21-\x7e]*")
TRUSTED: Final = "forwarded"
OTHERS: Final = "forwarded by others"
"""Under which `Request.of_fields` has what `Forwarding.read` has said of requests with these fields."""
_START_FORM: Final = re.compile(rb"(?:t=)?(\d{1,19})(?:\.(\d{1,9}))?")


class Peer(NamedTuple):
    """An address that a proxy has seen."""

    host: str
    port: int
    """0: it has not said."""


class Told(NamedTuple):
    """What trusted proxies say of a request; empty or None where they say nothing."""

    fields: list[tuple[bytes, bytes]] | None = None
    """In place of the request's: ``host`` is another, or fields that became `variables` are gone; None: they stay."""
    client: Peer | None = None
    scheme: str = ""
    """``http`` or ``https``."""
    port: str = ""
    """Of the server, as the client knows it."""
    prefix: str = ""
    """Where the application is mounted, as the client knows it: ``/shop``."""
    variables: Mapping[str, str] = {}
    """Keys of the environ, all of them with HTTP_ before."""
    named: frozenset[bytes] = frozenset()
    """The fields that they are made of: those of their names with underscores that may be shown."""
    began: float = 0.0
    """When the first proxy has got the request, in seconds since the epoch."""

    def applied(self, request: Request) -> Request:
        """The request that is to be served."""
        if self.fields is None and not self.named:
            return request
        fields = request.fields if self.fields is None else self.fields
        return request._replace(fields=fields, of_fields={NAMED: self.named} if self.named else {}, of_head={})


NAMED: Final = "named"
"""Where `shown` finds `Told.named` in `Request.of_fields`."""
_SHOWN: Final = "shown"


def shown(request: Request) -> list[tuple[bytes, bytes]]:
    """The fields for an application that gets them under their own names (ASGI); nobody's to change.

    Names with underscores are not among them, but for those that a forwarder or `header_map` lets through: frameworks make
    variables of fields as CGI does, where ``x_user`` is ``x-user``.
    """
    made = request.of_fields
    kept: list[tuple[bytes, bytes]] | None = made.get(_SHOWN)
    if kept is None:
        kept = request.fields
        if any(b"_" in name for name, _ in kept):
            named = made.get(NAMED, ())
            kept = [field for field in kept if b"_" not in field[0] or field[0] in named]
        made[_SHOWN] = kept
    return kept


class Forwarding:
    """The rules of one worker."""

    __slots__ = ("_facts", "_keys", "_map", "_schemes", "_trust", "_wanted", "trusts")

    def __init__(
        self,
        trust: Trust,
        *,
        facts: Iterable[str] = ("for", "proto"),
        scheme_headers: Iterable[tuple[str, str]] = (),
        forwarder_headers: Iterable[str] = (),
        header_map: str = "drop",
    ) -> None:
        """The settings of the same names, with Gunicorn's meanings where it has them.

        Args:
            trust: `forwarded_allow_ips`.
            facts: what is believed: ``for``, ``proto``, ``host``, ``port``, ``prefix``.
            scheme_headers: names of fields, and the value that means https.
            forwarder_headers: names with underscores that become variables; ``*`` is all.
            header_map: what becomes of other names with underscores: ``drop``, ``refuse`` or ``dangerous``.
        """
        self._trust = trust
        self.trusts = trust.covers
        """Whether a peer is believed; to be asked once for a connection. ``""`` is a unix socket's."""
        self._facts = frozenset(facts)
        self._schemes = {name.lower().replace("_", "-").encode(): value.encode("latin-1") for name, value in scheme_headers}
        self._keys = frozenset(name.upper().encode() for name in forwarder_headers)
        self._map = header_map
        named = {"for": _FOR, "host": _HOST, "port": _PORT, "prefix": _PREFIX}
        wanted = {named[fact] for fact in self._facts if fact in named}
        if self._facts & {"for", "proto", "host"}:
            wanted.add(_FORWARDED)
        self._wanted = frozenset({*wanted, *self._schemes, *_STARTS, *(key.lower() for key in self._keys)})

    @staticmethod
    def name(*, trusted: bool) -> str:
        """`TRUSTED` or `OTHERS`."""
        return TRUSTED if trusted else OTHERS

    def read(self, request: Request, *, trusted: bool) -> Told | None:
        """What proxies say of `request`; None: nothing, as it mostly is.

        Raises:
            Refusal: 400.
        """
        if not trusted and self._map == "drop":
            return None
        key = TRUSTED if trusted else OTHERS
        made = request.of_fields
        if key not in made:
            made[key] = self._read(request.fields, trusted=trusted)
        told: Told | None = made[key]
        return told

    def _read(self, fields: list[tuple[bytes, bytes]], *, trusted: bool) -> Told | None:
        found: dict[bytes, list[bytes]] = {}
        strange: list[tuple[bytes, bytes]] = []
        for field in fields:
            if b"_" in field[0]:
                strange.append(field)
            elif trusted and field[0] in self._wanted:
                found.setdefault(field[0], []).append(field[1])
        variables, own, named = self._map_strange(strange, trusted=trusted)
        changed = None
        if own:  # the forwarder's word counts, not what a client has sent under a name that becomes the same variable
            changed = fields = [field for field in fields if field[0] not in own]
        if not found:
            return Told(changed, variables=variables, named=named) if strange else None
        facts = self._facts
        client = self._last_untrusted(_hops(found[_FOR])) if _FOR in found else None
        scheme = self._scheme(found)
        host = _last(found[_HOST]) if _HOST in found else b""
        if _FORWARDED in found:
            element = self._element(_elements(b",".join(found[_FORWARDED])))
            if "for" in facts and b"for" in element:
                peer = _node(element[b"for"])
                if client and peer and peer.host != client.host:
                    raise Refusal(400, "Forwarded and X-Forwarded-For name different clients.")
                client = client or peer
            if "proto" in facts and (proto := element.get(b"proto", b"").lower().decode("latin-1")):
                if proto not in ("http", "https") or (scheme and scheme != proto):
                    raise Refusal(400, "Fields that tell the scheme contradict each other, or one names none.")
                scheme = proto
            if "host" in facts:
                host = host or element.get(b"host", b"")
        if host:
            if not is_host(host):
                raise Refusal(400, "The forwarded host is not a host and port.")
            changed = [(b"host", host), *(field for field in fields if field[0] != b"host")]
        return Told(
            changed,
            client,
            scheme,
            _port(_last(found[_PORT])) if _PORT in found else "",
            _prefix(_last(found[_PREFIX])) if _PREFIX in found else "",
            variables,
            named,
            max((_moment(value) for name in _STARTS for value in found.get(name, ())), default=0.0),
        )

    def _scheme(self, found: dict[bytes, list[bytes]]) -> str:
        """What `secure_scheme_headers` say, in Gunicorn's way: any other value than the secure one means http."""
        schemes = {
            "https" if value == secure else "http" for name, secure in self._schemes.items() for value in found.get(name, ())
        }
        if len(schemes) > 1:
            raise Refusal(400, "Fields that tell the scheme contradict each other.")
        return schemes.pop() if schemes else ""

    def _last_untrusted(self, hops: list[Peer | None]) -> Peer | None:
        """The rightmost hop that is not trusted; if all are, or what stands before is no address, the leftmost that is one."""
        client = None
        for hop in reversed(hops):
            if hop is None:
                break
            client = hop
            if not self._trust.covers(hop.host):
                break
        return client

    def _element(self, elements: list[dict[bytes, bytes]]) -> dict[bytes, bytes]:
        """The element of ``Forwarded`` that tells of the client: the rightmost that a trusted proxy has added."""
        chosen: dict[bytes, bytes] = {}
        for element in reversed(elements):
            hop = _node(element[b"for"]) if b"for" in element else None
            if hop is None and chosen:
                break
            chosen = element
            if hop is None or not self._trust.covers(hop.host):
                break
        return chosen

    def _map_strange(
        self, strange: list[tuple[bytes, bytes]], *, trusted: bool
    ) -> tuple[dict[str, str], set[bytes], frozenset[bytes]]:
        """Variables from names with underscores, which ``_`` and ``-`` make the same (`wsgi_environ` and `shown` drop them).

        Also gives the names that must not become the same variables, and those that variables were made of.
        """
        variables: dict[str, str] = {}
        own = set()
        named = set()
        for name, value in strange:
            upper = name.upper()
            is_named = trusted and (upper in self._keys or b"*" in self._keys)
            if not is_named and self._map == "refuse":
                raise Refusal(400, "A field name with an underscore.")
            if is_named or self._map == "dangerous":
                key = "HTTP_" + upper.decode().replace("-", "_")
                text = value.decode("latin-1")
                variables[key] = f"{variables[key]},{text}" if key in variables else text
                named.add(name)
            if is_named:
                own.add(upper.replace(b"_", b"-").lower())
        return variables, own, frozenset(named)


def _last(values: list[bytes]) -> bytes:
    """The last item of a list field: what the peer itself has said."""
    return values[-1].rpartition(b",")[2].strip(b" \t")


def _hops(values: list[bytes]) -> list[Peer | None]:
    return [_node(item.strip(b" \t")) for value in values for item in value.split(b",")]


_peers: dict[bytes, Peer | None] = {}
_PEERS_KEPT: Final = 1024  # a site has some clients at a time; those that make addresses up must not make us grow


def _node(value: bytes) -> Peer | None:
    """An address with or without a port (RFC 7239 section 6, and what X-Forwarded-For holds); None for all else."""
    try:
        return _peers[value]
    except KeyError:
        found = _read_node(value)
        if len(_peers) >= _PEERS_KEPT:
            _peers.clear()
        _peers[value] = found
        return found


def _read_node(value: bytes) -> Peer | None:
    text = value.decode("latin-1")
    match = _V6_NODE.fullmatch(text) or _V4_NODE.fullmatch(text)
    host, port = (match[1], int(match[2] or 0)) if match else (text, 0)
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if port > 0xFFFF or (isinstance(address, IPv6Address) and address.scope_id):
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return Peer(str(address.ipv4_mapped), port)
    return Peer(plain_host(str(address)), port)


def _elements(value: bytes) -> list[dict[bytes, bytes]]:
    """The elements of ``Forwarded``, names in lower case.

    Raises:
        Refusal: it is malformed.
    """
    elements: list[dict[bytes, bytes]] = [{}]
    at = 0
    while True:
        match = _PAIR.match(value, at)
        if match:
            name = match[1].lower()
            if name in elements[-1]:
                raise Refusal(400, "The Forwarded field says something twice.")
            elements[-1][name] = match[2] if match[3] is None else re.sub(rb"\\(.)", rb"\1", match[3])
            at = match.end()
        if at == len(value):
            return elements
        if value[at : at + 1] == b",":
            elements.append({})
        elif value[at : at + 1] != b";" or not match:
            raise Refusal(400, "The Forwarded field is malformed.")
        at += 1


def _port(value: bytes) -> str:
    if not (value.isdigit() and len(value) < 6 and 0 < int(value) <= 0xFFFF):
        raise Refusal(400, "The forwarded port is none.")
    return str(int(value))


def _prefix(value: bytes) -> str:
    if not _PREFIX_FORM.fullmatch(value):
        raise Refusal(400, "The forwarded prefix is not a path.")
    return value.decode("latin-1").rstrip("/")


def _moment(value: bytes) -> float:
    """Seconds since the epoch of ``t=1700000000.123``, or of the same in milli-, micro- or nanoseconds; 0.0 for all else."""
    match = _START_FORM.fullmatch(value.strip())
    if not match:
        return 0.0
    number = float(f"{match[1].decode()}.{(match[2] or b'0').decode()}")
    for unit in (1e9, 1e6, 1e3):
        if number >= 1e8 * unit:  # 1e8 s: 1973; the next unit's 1e8 is 5138
            return number / unit
    return number
