"""When open files run out: nothing fails, nothing spins, and who connects waits for its turn."""

from __future__ import annotations

import sys
import time
import urllib.request
from contextlib import ExitStack, closing
from pathlib import Path

from rsocket_mesh.protocol.frames import KEEPALIVE, encode_keepalive, encode_setup, peek
from tests.support.processes import BrokerProcess, running
from tests.support.raw_clients import SETUP, RawClient

OPEN_FILES, SPARE = 96, 40
MANY = 90  # connections: more than there are files
PATIENCE = 10.0  # seconds


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def is_served(client: RawClient, wait: float) -> bool:
    client.sock.settimeout(wait)
    try:
        return peek(client.frame())[1] == KEEPALIVE
    except TimeoutError:
        return False


def test_accepting_pauses_while_few_descriptors_are_left_and_goes_on_when_some_are_free() -> None:
    command = [sys.executable, "-m", "broker", "--listen", "tcp://127.0.0.1:0"]
    command += ["--admin", "http://127.0.0.1:0"]
    shell = f'ulimit -n {OPEN_FILES}; exec "$@"'
    env = {"RSOCKET_BROKER_LIMITS__SPARE_DESCRIPTORS": str(SPARE)}
    with running("sh", "-c", shell, "sh", *command, name="broker", env=env) as process:
        process.wait_for_line("^ready$")
        urls = [line.split()[1] for line in process.lines() if line.startswith("listening ")]
        broker = BrokerProcess(process, urls)
        with ExitStack() as stack:
            clients = [stack.enter_context(closing(RawClient(broker))) for _ in range(MANY)]
            for client in clients:
                client.send(encode_setup(SETUP), encode_keepalive(respond=True))
            process.wait_for_line("no connections are accepted for now", stream="stderr")
            served = [client for client in clients if is_served(client, 0.05)]
            assert 10 < len(served) <= OPEN_FILES - SPARE

            before = cpu_seconds(process.pid)
            time.sleep(1.0)
            assert cpu_seconds(process.pid) - before < 0.2  # s; it does not spin
            with urllib.request.urlopen(f"{broker.url('http')}/metrics", timeout=5) as answer:
                text = answer.read().decode()
            assert 'rsocket_broker_limits_hit_total{limit="spare_descriptors"}' in text

            waiting = [client for client in clients if client not in served]
            for client in served:
                client.close()
            assert is_served(waiting[0], PATIENCE)
            for client in waiting:
                client.close()
            with closing(RawClient(broker).setup()):
                pass
        assert "Traceback" not in "\n".join(process.lines("stderr"))
