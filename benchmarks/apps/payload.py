"""What the frameworks' views answer: 82 bytes of JSON when written without spaces."""

from __future__ import annotations

PAYLOAD = {"id": 17, "name": "A thing of the shop", "price": 1999, "tags": ["new", "red"], "ok": True}
