"""The words of RFC 9110 and 9112 as regular expressions, stricter where leniency has been an attack.

One place, because the whole-head pattern, the line-by-line diagnosis, the chunk lines and the checks of responses must
never disagree. Everything is bytes: nothing is decoded before it is known to be sound. Possessive quantifiers (``++``)
keep each pattern linear: no input makes them back-track.
"""

from __future__ import annotations

import re
from typing import Final

# token = 1*tchar (RFC 9110 section 5.6.2)
TCHAR: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

# field-value (RFC 9110 section 5.5) without control characters other than HTAB; obs-text is opaque but allowed.
# obs-fold (RFC 9112 section 5.2) is not in it: a server may refuse it, and each fold is a chance to be read differently.
FIELD_OCTET: Final = rb"[\t\x20-\x7e\x80-\xff]"

# method = token (RFC 9110 section 9.1). Narrower: what Gunicorn, nginx and h11 all take. llhttp, nginx and Gunicorn refuse
# lower case, nginx digits, and Gunicorn has the bounds of length, 3 to 20; IANA's registry (3 to 17 characters, upper case and
# "-") fits, and so do private names. PRI is no method but the beginning of HTTP/2 (RFC 9113 section 3.4), as which another
# reader may take what follows.
METHOD: Final = rb"(?!PRI(?![A-Z_\-]))[A-Z_\-]{3,20}+"

# request-target (RFC 9112 section 3.2): printable ASCII here, the forms are told apart in policy. Octets above 0x7F are
# no part of a URI (RFC 3986); h11 and llhttp refuse them.
TARGET: Final = rb"[\x21-\x7e]++"

FIELD_LINE: Final = re.compile(rb"(%b++):[\t ]*+(%b*+)" % (TCHAR, FIELD_OCTET))
"""One field line without its line end: name, and value with trailing blanks."""

HEAD: Final = re.compile(
    rb"(?:\r\n)?(%b) (%b) HTTP/1\.([01])\r\n(?:%b++:%b*+\r\n)*+\r\n" % (METHOD, TARGET, TCHAR, FIELD_OCTET)
)
"""A whole, sound head: method, target, minor version. One empty line before it is let pass (RFC 9112 section 2.2)."""

ORIGIN_LINE: Final = re.compile(rb"(?!CONNECT |TRACE )(%b) (/[\x21-\x7e]*+) HTTP/1\.([01])\r\n" % METHOD)
"""The line that nearly all requests begin with: a target in origin-form (RFC 9112 section 3.2.1), and no method that is judged
by itself."""

LINE_END: Final = re.compile(rb"\r?\n|\r(?=[^\n])")
"""What any reader might take for the end of a line; only CRLF is one. A CR at the end of the data is not decided yet."""

REQUEST_LINE: Final = re.compile(rb"(\S++) (\S++) HTTP/([0-9])\.([0-9])")
"""The shape of a request line, to say which part is wrong."""

FIELDS: Final = re.compile(rb"(%b++):[\t ]*+(%b*+)\r\n" % (TCHAR, FIELD_OCTET))
"""All field lines of a sound section, with ``findall``."""

# chunk-ext without the BWS that RFC 9112 section 7.1.1 tolerates: llhttp refuses it, and blanks after a chunk size have
# been read in two ways before.
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_CHUNK_SIZE: Final = rb"0{0,5}?[0-9A-Fa-f]{1,15}+"
CHUNK_LINE: Final = re.compile(rb"(%b)((?:;%b++(?:=(?:%b++|%b))?+)*+)\r\n" % (_CHUNK_SIZE, TCHAR, TCHAR, _QUOTED))
"""Chunk size and extensions. Fifteen digits stay below 2**60: no parser's integer overflows. With zeroes before them they
may be twenty, as many as h11 takes."""

FRAMING_TAB: Final = re.compile(rb"\r\n(?:host|content-length|transfer-encoding):[^\r\t]*+\t", re.IGNORECASE)
"""A tab where blanks may stand around a value that routes or frames the message: nginx and llhttp take it for part of that."""

PLAIN_CHUNK: Final = re.compile(rb"(%b)\r\n" % _CHUNK_SIZE)
"""A chunk's size without extensions, as nearly all are."""

# uri-host [ ":" port ] (RFC 9110 section 7.2, RFC 3986 section 3.2). Never empty (an http URI without a host is invalid,
# RFC 9110 section 4.2.1), no "," (it joins two fields), no ".." and nothing but a "." (as nginx), no port that TCP has not
# (zeroes before it are none of its digits).
_PORT: Final = rb"(?::0*+(?:[0-9]{0,4}|[0-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
AUTHORITY: Final = re.compile(
    rb"(?!.*\.\.|\.(?::|\Z))(?:[A-Za-z0-9\-._~!$&'()*+;=]|%%[0-9A-Fa-f]{2})++%b"
    rb"|\[(?:([0-9A-Fa-f:.]++)|v[0-9A-Fa-f]++\.[A-Za-z0-9\-._~!$&'()*+;=:]++)\]%b" % (_PORT, _PORT)
)
"""Group 1: what is to be an IPv6 address, if there is one."""

ABSOLUTE: Final = re.compile(rb"https?://([A-Za-z0-9\-._:\[\]]*+)(|[/?][^#]*+(?:#.*+)?)", re.IGNORECASE)
"""absolute-form (RFC 9112 section 3.2.2): authority, and the rest: path and query, and a fragment behind these only (llhttp).
The authority has no escapes and no punctuation, as in nginx: here it overrules the Host field."""
