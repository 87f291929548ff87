"""Every exception that the SDK raises, chosen by what the caller should do about it.

::

    UnifiedWebSocketError
    ├── InvalidInput (ValueError)            fix the call; nothing happened
    │   ├── InvalidConfiguration
    │   ├── InvalidEvent                     nothing was appended, no offset was used
    │   ├── InvalidUserId
    │   ├── MalformedCursor
    │   └── MalformedFrame
    ├── UnknownConnection (LookupError)      name a connection of that user, or none
    ├── AppendFailed                         retry later, with the same event id
    ├── LogUnavailable                       raised by log backends; retried before you see it
    ├── ManagerClosed                        start the manager, or stop using it
    ├── WrongEventLoop (RuntimeError)        one manager serves one running loop; a thread waits for it, not itself
    ├── ConnectionRefused                    the socket was closed with `code`; the client backs off
    ├── AuthenticationFailed                 send a new credential
    │   └── AuthenticationUnavailable        try again later, with the same credential
    ├── FrameRefused                         answered to the client as an `error` frame
    └── IsolationViolation                   a defect: the connection was closed and counted

No message carries a payload, a token or a cursor.
"""

from __future__ import annotations


class UnifiedWebSocketError(Exception):
    """The root of everything raised here on purpose."""


class InvalidInput(UnifiedWebSocketError, ValueError):
    """The call itself is wrong. Nothing happened; the same call fails again."""


class InvalidConfiguration(InvalidInput):
    """A limit, a retention or an argument of a constructor does not make sense."""


class InvalidEvent(InvalidInput):
    """The event cannot be appended: its type, its ids or its data are not allowed.

    Nothing was appended, no offset was used and nobody else was disturbed.
    """


class InvalidUserId(InvalidInput):
    """The value is not a user id. See `websocket_core.identity.checked_user_id`."""


class MalformedCursor(InvalidInput):
    """The text is not a cursor that any log could have given out."""


class MalformedFrame(InvalidInput):
    """The text from the client is not a frame."""


class UnknownConnection(UnifiedWebSocketError, LookupError):
    """No connection of that user has this id, now or within `Retention.age`."""


class AppendFailed(UnifiedWebSocketError):
    """Every attempt to append was spent. The outcome is unknown: the event may be in the log.

    Calling again with `event_id=error.event_id` is safe: a log holds an id once.
    """

    def __init__(self, event_id: str, attempts: int) -> None:
        super().__init__(
            f"event {event_id!r} could not be appended in {attempts} attempts; "
            "its outcome is unknown: emit it again with the same event_id"
        )
        self.event_id = event_id
        self.attempts = attempts


class LogUnavailable(UnifiedWebSocketError):
    """The log cannot be reached now. Backends raise it; appends are tried again because of it."""


class ManagerClosed(UnifiedWebSocketError):
    """The manager was shut down and has not been started again."""


class WrongEventLoop(UnifiedWebSocketError, RuntimeError):
    """The manager is serving another event loop that is still running, or `emitter.sync` was called on the thread of
    the loop that it would wait for. Nothing happened."""


class ConnectionRefused(UnifiedWebSocketError):
    """The connection was not taken; its socket was closed with `code`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"connection refused with {code} ({reason})")
        self.code = code
        self.reason = reason


class AuthenticationFailed(UnifiedWebSocketError):
    """The credential is missing, wrong or expired. The message never quotes it."""


class AuthenticationUnavailable(AuthenticationFailed):
    """Whether the credential is good cannot be told now: an identity provider or a session store is away."""


class FrameRefused(UnifiedWebSocketError):
    """A client's frame is well formed and still refused.

    `code` is one of the error codes of `websocket_core.wire`; `message` is shown to the client, so it
    says nothing that another user may not know.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class IsolationViolation(UnifiedWebSocketError):
    """An entry of one log came up for a connection that may not read that log."""
