"""`make demo`: start everything, show every act, end everything.

    python -m examples.demo

The exit status is 0 if all that is shown was found to be true, 1 if something was not, 130 after
Ctrl-C, 143 after SIGTERM or when the terminal is closed. No process is left behind in any case.
"""

import asyncio
import logging
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from examples.demo import calls, failures
from examples.demo.show import Show, Surprise
from examples.demo.stage import Stage
from rsocket_mesh import RSocketError, connect

TIMEOUT = 180.0  # s for everything; it takes about 10, so behind this there is no hope


ACTS = (
    calls.who_is_there,
    calls.request_response,
    calls.request_stream,
    calls.backpressure,
    calls.request_channel,
    calls.fire_and_forget,
    calls.metadata_push,
    failures.mistakes,
    failures.a_service_dies,
    failures.the_broker_dies,
)


async def main(show: Show) -> None:
    began = time.monotonic()
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, this.cancel)
    show.opening(
        "RSocket Mesh",
        "One broker, some services, and calls of every kind between them. Each service is a"
        " process of its own that opens one connection and no port. It all runs on this machine,"
        " on free ports, and is gone when the demo ends.",
    )
    async with Stage() as stage:
        try:
            async with asyncio.timeout(TIMEOUT):
                await stage.start_broker()
                for example in ("machine", "stdlib_search", "journal"):
                    await stage.start(example)
                (stage.directory / "received").mkdir()
                await stage.start("files", "serve", str(stage.directory / "received"))
                async with connect(stage.url, app="demo", serve=[calls.guide]) as mesh:
                    for act in ACTS:
                        await act(show, mesh, stage)
        except Exception:
            show.console.print(stage.last_words(), markup=False, style="dim")
            raise
    seconds = time.monotonic() - began
    show.closing(
        f"[bold green]{show.facts} facts in {show.acts} acts, all true[/], in {seconds:.0f} s."
        " All that was started has ended.\n\n"
        "Read next   examples/call.py, the smallest caller; then examples/machine.py\n"
        "Try         .venv/bin/rsocket-broker\n"
        "            .venv/bin/python -m examples.machine   in a second terminal\n"
        "            .venv/bin/python -m examples.call      in a third one"
    )


def run() -> int:
    """Run the demo; return the exit status."""
    if not Path("/proc/stat").exists():
        print("The demo measures this machine through /proc, which only Linux has.")
        return 1
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # an old terminal may have no check mark
    # What goes wrong on purpose is part of the show; it needs no log lines between the acts.
    logging.getLogger("rsocket_mesh").addHandler(logging.NullHandler())
    show = Show(Console(highlight=False))
    try:
        asyncio.run(main(show))
    except KeyboardInterrupt:
        show.console.print("\nStopped; everything that was started has ended.")
        return 130
    except asyncio.CancelledError:
        return 143
    except (Surprise, RSocketError, OSError, TimeoutError) as exc:
        show.failed(exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
