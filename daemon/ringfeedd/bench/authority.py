"""A certificate authority of the benchmark's own, and a certificate of localhost that it has signed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringfeedd.errors import StartError

TRUSTED_BY: Final = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
"""Environment variables that name the authorities: of OpenSSL (Python, and so Ringfeed), of curl, of other clients."""


def make_certificates(folder: Path) -> None:
    """Write ``ca``, and ``cert`` and ``key`` of the host localhost. Raises: StartError without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise StartError("the benchmark's store needs a certificate: install openssl")

    def run(*arguments: str | Path) -> None:
        subprocess.run([openssl, *map(str, arguments)], check=True, capture_output=True)

    ca, ca_key, request, extensions = (folder / name for name in ("ca", "ca.key", "request", "extensions"))
    key, new = folder / "key", ("-newkey", "rsa:2048", "-nodes")
    run("req", "-x509", *new, "-days", "2", "-subj", "/CN=An authority of the benchmark", "-keyout", ca_key, "-out", ca)
    run("req", *new, "-subj", "/CN=localhost", "-keyout", key, "-out", request)
    extensions.write_text("basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signed = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", extensions)
    run("x509", "-req", "-in", request, *signed, "-out", folder / "cert")


@contextlib.contextmanager
def own_authority(folder: Path) -> Iterator[None]:
    """Make certificates in a folder, and have this process and those that it starts trust them alone."""
    make_certificates(folder)
    before = {name: os.environ.get(name) for name in TRUSTED_BY}
    os.environ.update(dict.fromkeys(TRUSTED_BY, str(folder / "ca")))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
