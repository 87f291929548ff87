"""A Redis that speaks TLS, with a certificate of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.listening import free_port
from tests.redis.server import RedisServer

NEEDS_OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")


def tls_server(directory: Path) -> tuple[RedisServer, str, str]:
    """A server in that directory, its address, and the query that names whom to trust. Skips where Redis was built
    without TLS, except in CI, where nothing is skipped for that."""
    port = free_port()
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subject = ("-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", key, "-out",
         certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    try:
        server = RedisServer(
            directory, "--tls-port", f"{port}", "--tls-auth-clients", "no", "--tls-cert-file", f"{certificate}",
            "--tls-key-file", f"{key}",
        )  # fmt: skip
    except AssertionError:
        if os.environ.get("CI"):
            raise
        pytest.skip("this redis-server was built without TLS")
    return server, f"rediss://127.0.0.1:{port}/0", f"?ssl_ca_certs={certificate}"
