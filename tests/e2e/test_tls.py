"""A daemon and a bucket over TLS: with the authorities that the environment names, and no others."""

from __future__ import annotations

import re
import subprocess

import pytest
from house import RINGFEED, Daemon, photographs
from transports import TRANSPORTS, localhost_tls

import ringfeed
from ringfeedd.fakegcs.server import FakeGcs, serve_in_thread

PAIRS = 12


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket over TLS, and the certificate that it shows."""
    folder = tmp_path_factory.mktemp("tls")
    with serve_in_thread(FakeGcs({"b": photographs(PAIRS)}, tls=localhost_tls(folder))) as server:
        yield server.url, folder / "cert"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_pairs_come_over_tls_from_a_trusted_store(bucket, ring, transport, monkeypatch):
    url, certificate = bucket
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    arguments = ["--emulator", url, "--size", "32x32", "--slots", "16", "--workers", "1", "--transport", transport]
    with (
        Daemon("gs://b/set", *arguments, ring=ring),
        ringfeed.attach(f"{ring}-train", batch_size=4) as reader,
    ):
        ids = [pair_id for batch in reader for pair_id in batch.ids]
    assert len(set(ids)) == PAIRS


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_store_with_an_unknown_certificate_is_refused(bucket, ring, transport, tmp_path, monkeypatch):
    url, _ = bucket
    localhost_tls(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    command = [*RINGFEED, "serve", "gs://b/set", "--ring", ring, "--emulator", url, "--size", "32x32"]
    command += ["--workers", "1", "--transport", transport, "--catalog-cache", "off"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 3
    assert re.search(r"certificate", run.stderr + run.stdout)
    assert "SSL_CERT_FILE" in run.stderr + run.stdout
