"""The command line: `python -m websocket_core serve`, `token` and `tail`."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import math
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

KEY_VARIABLE: Final = "UNIFIED_WEBSOCKET_KEY"
TOKEN_VARIABLE: Final = "UNIFIED_WEBSOCKET_TOKEN"
PROGRAM: Final = "python -m websocket_core"

FRAME_BYTES: Final = 4_194_304
"""The largest frame that `tail` takes: the largest event, with everything that may surround it, is far below."""
LONGEST_PAUSE: Final = 30.0
"""Seconds between two attempts of `tail` to come back, at most."""


def _say(text: str) -> None:
    """For whoever looks on: everything that is not the result goes to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _fail(text: str, status: int = 1) -> NoReturn:
    _say(f"error: {text}")
    raise SystemExit(status)


def _print(line: str) -> None:
    """One line of the result. Ends the program in silence when nobody reads it any more, as `head` does."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        raise SystemExit(0) from None


# -- serve


def _serve(options: argparse.Namespace) -> None:
    if options.workers > 1:
        _fail(
            "--workers is 1 while logs are in memory: each worker would have logs of its own, and users would miss "
            "events of the others. Run several servers with users of their own, or one worker",
            2,
        )
    hops = _hops(options.forwarded_allow_ips)
    try:
        from websocket_core.server import ServerBounds, run
        from websocket_core.server_logging import JSONFormatter
    except ModuleNotFoundError as error:
        if error.name != "uvicorn":
            raise
        _fail("serve needs uvicorn: install unified-websocket[server]", 2)

    def announce(address: str) -> None:
        text = f"Serving {options.app} on {address}"
        if options.log_format == "json":
            record = logging.LogRecord("websocket_core.server", logging.INFO, __file__, 0, text, None, None)
            text = JSONFormatter().format(record)
        _say(text)

    run(
        options.app,
        host=options.host,
        port=options.port,
        uds=options.uds,
        factory=options.factory,
        drain=options.drain,
        announce=announce,
        bounds=ServerBounds(handshake_timeout=options.handshake_timeout),
        ws_ping_interval=options.ping_interval,
        ws_ping_timeout=options.ping_timeout or None,
        forwarded_allow_ips=hops,
        log_level=options.log_level,
        log_format=options.log_format,
    )


def _hops(text: str | None) -> str | None:
    """The proxies as they were given. uvicorn would take a mistyped address for the name of something."""
    for item in () if text is None else map(str.strip, text.split(",")):
        try:
            if item != "*":
                ipaddress.ip_network(item)
        except ValueError:
            _fail(f"--forwarded-allow-ips takes addresses and networks, and {item!r} is neither", 2)
    return text


# -- token


def _token(options: argparse.Namespace, environ: Mapping[str, str], clock: Callable[[], float]) -> None:
    import jwt

    from websocket_core.auth import JWTAuthenticator
    from websocket_core.errors import InvalidConfiguration, InvalidUserId
    from websocket_core.identity import checked_user_id

    key = environ.get(options.key_env)
    if not key:
        _fail(f"put the key into the environment variable {options.key_env}, or name another with --key-env", 2)
    try:
        user = checked_user_id(options.user)
        JWTAuthenticator(key, algorithms=[options.algorithm])  # what the server would refuse is refused here
    except (InvalidConfiguration, InvalidUserId) as error:
        _fail(str(error), 2)
    now = int(clock())
    claims: dict[str, object] = {"sub": user, "iat": now, "exp": now + math.ceil(options.expires)}
    if options.audience is not None:
        claims["aud"] = options.audience
    if options.issuer is not None:
        claims["iss"] = options.issuer
    _print(jwt.encode(claims, key, algorithm=options.algorithm))


# -- tail


class _Tail:
    """Follows one user's events, and comes back after a cut with the cursor of the last one."""

    def __init__(self, url: str, token: str | None, cursor: str | None) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._cursor = cursor
        self._attempts = 0
        self._was_connected = False
        self._jitter = random.Random()

    def _address(self) -> str:
        """The address with the cursor that we are at."""
        parts = urlsplit(self._url)
        query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "cursor"]
        if self._cursor is not None:
            query.append(("cursor", self._cursor))
        return urlunsplit(parts._replace(scheme=parts.scheme.replace("http", "ws"), query=urlencode(query)))

    async def run(self) -> NoReturn:
        """Print events until something ends it for good, with `SystemExit`."""
        from websockets.exceptions import InvalidStatus, WebSocketException

        while True:
            try:
                code = await self._follow()
            except (OSError, WebSocketException) as error:
                refused = isinstance(error, InvalidStatus) and error.response.status_code < 500
                if refused or not self._was_connected:
                    _fail(f"cannot connect: {error}")
                code = 1006
            self._judge(code)
            pause = self._jitter.uniform(0.0, min(LONGEST_PAUSE, 0.5 * 2.0**self._attempts))
            self._attempts = min(self._attempts + 1, 10)
            _say(f"cut ({code}); trying again in {pause:.1f} s")
            await asyncio.sleep(pause)

    @staticmethod
    def _judge(code: int) -> None:
        """End the program if a client is not to come back after this close code."""
        from websocket_core.wire import CLOSE_RULES, CloseCode

        if code in CLOSE_RULES:
            rule = CLOSE_RULES[CloseCode(code)]
            if rule.reconnect != "resume":
                _fail(f"the server closed the connection: {code} {rule.reason}")

    async def _follow(self) -> int:
        """One connection, from its handshake to its end; the close code."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed
        from websockets.typing import Subprotocol

        from websocket_core.wire import PROTOCOL

        async with connect(
            self._address(),
            additional_headers=self._headers,
            subprotocols=[Subprotocol(PROTOCOL)],
            max_size=FRAME_BYTES,
            close_timeout=2,
        ) as socket:
            try:
                while True:
                    text = await socket.recv(decode=True)
                    for line in text.split("\n"):
                        if answer := self._take(line):
                            await socket.send(answer)
            except ConnectionClosed:
                return socket.close_code or 1006

    def _take(self, line: str) -> str | None:
        """Handle one frame; what to answer, if anything."""
        try:
            frame = json.loads(line)
            kind = frame["type"]
        except (ValueError, TypeError, KeyError):
            _fail("this server does not speak the protocol of unified-websocket")
        if "id" in frame:
            _print(line)
        elif kind == "connected":
            self._was_connected = True
            self._attempts = 0
            _say(f"connected as {frame['user_id']!r}{', resumed' if frame['resumed'] else ''}")
        elif kind == "gap":
            _say(f"gap ({frame['reason']}): earlier events are not held any more")
        elif kind == "error":
            _say(f"the server says: {frame.get('message')}")
        if "id" in frame or kind in ("connected", "gap", "ping"):
            self._cursor = frame["cursor"]
        return json.dumps({"type": "pong", "cursor": self._cursor}) if kind == "ping" else None


def _tail(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    parts = urlsplit(options.url)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
        _fail("the address looks like ws://host:port/path", 2)
    token = options.token or environ.get(options.token_env)
    asyncio.run(_Tail(options.url, token, options.cursor).run())


# -- arguments


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < math.inf:
        raise ValueError(text)
    return value


def _more_seconds(text: str) -> float:
    if value := _seconds(text):
        return value
    raise ValueError(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Serve an application, make a token, watch events.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    defaults = argparse.ArgumentDefaultsHelpFormatter

    serve = commands.add_parser("serve", help="serve an application with uvicorn", formatter_class=defaults)
    serve.add_argument("app", metavar="MODULE:APP", help="the ASGI application, such as app:app")
    serve.add_argument("--factory", action="store_true", help="APP is a function that makes the application")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one")
    serve.add_argument("--uds", metavar="PATH", help="listen on this Unix socket instead")
    serve.add_argument("--workers", type=int, default=1, help="more than 1 is refused while logs are in memory")
    serve.add_argument("--drain", type=_seconds, default=25.0, metavar="SECONDS", help="time to send clients away")
    serve.add_argument(
        "--ping-interval", type=_seconds, default=20.0, metavar="SECONDS", help="between two protocol pings; 0 is none"
    )
    serve.add_argument(
        "--ping-timeout",
        type=_seconds,
        default=20.0,
        metavar="SECONDS",
        help="a client that answers later is cut; 0 is never",
    )
    serve.add_argument(
        "--handshake-timeout",
        type=_more_seconds,
        default=5.0,
        metavar="SECONDS",
        help="a client that has not sent its request by then is cut",
    )
    serve.add_argument(
        "--forwarded-allow-ips",
        metavar="IPS",
        help="proxies whose X-Forwarded headers are believed, such as 127.0.0.1,10.0.0.0/8; without it, nobody's",
    )
    serve.add_argument(
        "--log-level", choices=("critical", "error", "warning", "info", "debug"), default="warning", help="of uvicorn"
    )
    serve.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="of everything that is logged, a line for each"
    )

    token = commands.add_parser("token", help="make a JSON Web Token to try things with", formatter_class=defaults)
    token.add_argument("--user", required=True, help="the user id")
    token.add_argument("--key-env", default=KEY_VARIABLE, metavar="NAME", help="environment variable with the key")
    token.add_argument("--expires", type=_seconds, default=3600.0, metavar="SECONDS", help="how long it is valid")
    token.add_argument("--algorithm", choices=("HS256", "HS384", "HS512"), default="HS256", help="of the signature")
    token.add_argument("--audience", help="the aud claim")
    token.add_argument("--issuer", help="the iss claim")

    tail = commands.add_parser(
        "tail", help="print a user's events as they come, one JSON object a line", formatter_class=defaults
    )
    tail.add_argument("url", metavar="URL", help="such as ws://127.0.0.1:8000/live/ws")
    tail.add_argument("--token", help="the token; others on this machine can see it in the list of processes")
    tail.add_argument("--token-env", default=TOKEN_VARIABLE, metavar="NAME", help="environment variable with the token")
    tail.add_argument("--cursor", help="continue after this cursor; latest for live events only")
    return parser


def main(
    arguments: Sequence[str] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
) -> None:
    """Run one command. Raises `SystemExit`: 1 if it failed, 2 for wrong arguments, 130 after Ctrl+C."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "serve":
            _serve(options)
        elif options.command == "token":
            _token(options, environ, clock)
        else:
            _tail(options, environ)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
