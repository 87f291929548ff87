"""Serves the demo: `python -m examples.docs_agent [--host 127.0.0.1] [--port 8000]`."""

from __future__ import annotations

import argparse
import socket

from examples.docs_agent.app import create_app
from websocket_core.server import run


def main() -> None:
    """Prints the address to open, then serves until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m examples.docs_agent", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    options = parser.parse_args()
    _check_free(options.host, options.port)
    app = create_app()
    shown = f"[{options.host}]" if ":" in options.host else options.host
    print(f"Demo: open http://{shown}:{options.port}/?left=alice&right=bob in a browser. Ctrl+C stops it.", flush=True)
    run(app, host=options.host, port=options.port)


def _check_free(host: str, port: int) -> None:
    # uvicorn would say so too, but only after the address to open was printed.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as error:
        raise SystemExit(f"Cannot listen on {host}:{port} ({error}). Choose another port with --port.") from error


if __name__ == "__main__":
    main()
