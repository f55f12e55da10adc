"""What went wrong, as an exit code and one line that says who failed and what to do.

The exit codes are a contract for scripts (docs/operate.md). A remote text is shown to a person at
a terminal, so it is made one harmless line first.
"""

from __future__ import annotations

from typing import Final

from rsocket_mesh.errors import (
    ApplicationError,
    ConnectionClosed,
    DeadlineExceeded,
    Forbidden,
    Invalid,
    NoRoute,
    PeerLost,
    Rejected,
    RSocketError,
    SetupRefused,
    SlowConsumer,
    StreamError,
    Unreachable,
)

OK: Final = 0
REMOTE: Final = 1  # the broker or the service said no, or its answer cannot be read
USAGE: Final = 2  # the command line, its input or a saved context
UNREACHABLE: Final = 3  # no broker, or the connection to it was lost
DEADLINE: Final = 4  # no answer in time
INTERRUPTED: Final = 130  # Ctrl-C; as shells count SIGINT
PIPE_CLOSED: Final = 141  # nobody reads our output any more; as shells count SIGPIPE

_MAX_LINE: Final = 2000  # characters of one error; an ERROR frame may carry 16 MB


class AnswerError(RSocketError):
    """An answer that came cannot be read or shown."""


def explain(error: RSocketError) -> tuple[int, str]:
    """Return the exit code and the line for *error*."""
    match error:
        case DeadlineExceeded():
            code, text, advice = DEADLINE, str(error), "--timeout SECONDS allows more time"
        case StreamError():
            code, (text, advice) = REMOTE, _stream_error(error)
        case SetupRefused():
            code, text, advice = REMOTE, f"the broker refused the connection: {error}", ""
        case Unreachable():
            code, text = UNREACHABLE, str(error)
            advice = "`rsocket-broker` starts one, --broker URL names another"
        case ConnectionClosed():
            code, text = UNREACHABLE, f"connection lost ({error.reason}): {error}"
            advice = "whether the work was done is unknown"
        case _:
            code, text, advice = REMOTE, str(error), ""
    if isinstance(error, StreamError) and error.route:
        text = f"{error.route}: {text}"
    return code, one_line(f"{text} ({advice})" if advice else text)


def _stream_error(error: StreamError) -> tuple[str, str]:
    """Return the text with its token, and the advice."""
    text = error.text if error.token is None else f"{error.token}: {error.text}"
    wait = error.details.get("retry_after_ms")
    match error:
        case ApplicationError():
            return f"the service failed: {error.text}", ""
        case NoRoute():
            advice = "`rsocket-mesh list` shows what there is"
        case Forbidden():
            advice = "the broker's rules decide that"
        case Rejected():
            advice = "nothing was done; try again" + (f" in {wait} ms" if wait else "")
        case Invalid():
            service = (error.route or "").rpartition(".")[0] or "SERVICE"
            advice = f"`rsocket-mesh describe {service}` shows what fits"
        case PeerLost():
            advice = "whether the work was done is unknown"
        case SlowConsumer():
            advice = "what reads this command's output is too slow"
        case _:
            advice = ""
    return text, advice


def one_line(text: str) -> str:
    """Return *text* without line ends, without control characters, and not too long."""
    line = " ".join(text.split())
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
    return line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}..."
