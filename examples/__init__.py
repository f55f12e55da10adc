"""Services and callers to read, run and copy; `make demo` shows them all at work.

Each service is a process of its own. Start a broker (`rsocket-broker`), then in other terminals
    python -m examples.machine                how busy this machine is        request-stream
    python -m examples.stdlib_search          search in Python's own sources  request-response
    python -m examples.files serve DIRECTORY  files of any size, checked      request-channel
    python -m examples.journal                notes that nobody waits for     fire-and-forget
    python -m examples.call                   a caller, in three lines
None of them opens a port, and no order of starting matters: a service waits for its broker.
"""

import os

# One URL, or several with blanks between: the first that answers is used.
BROKER = (os.environ.get("RSOCKET_MESH_BROKER") or "tcp://127.0.0.1:7878").split()
