"""Certificates for tests, made on the spot: an authority, and what it signs."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


class Authority:
    """An authority, and the files that it fills in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """Files with a certificate for these hosts, and its key; replaced as certbot does it, each in one step."""
        made = self._ca.issue_cert(*hosts, common_name=hosts[0], key_type=trustme.KeyType.ECDSA)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        return self.write(f"{name}.pem", chain), self.write(f"{name}.key", made.private_key_pem.bytes())

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        (draft := path.with_suffix(".draft")).write_bytes(data)
        os.replace(draft, path)
        return path

    def client(self, *own: Path, tls13: bool = True) -> ssl.SSLContext:
        """A client's context that trusts this authority only; `own`: its certificate and key."""
        context = ssl.create_default_context(cafile=str(self.file))
        if not tls13:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        if own:
            context.load_cert_chain(*map(str, own))
        return context
