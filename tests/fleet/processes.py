"""Processes of the scenario: ports, waiting, a replica, the proxy in front of the replicas."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Makes a clock that is days off, where the system has it.
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url, process, seconds=120):
    """Until it answers with 200."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"{process.args[0]} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.05)
    raise SystemExit(f"{url} did not answer")


class Replica:
    """A server with a copy of its own."""

    def __init__(self, number, skeg, model, place, store, folder, clock=None):
        self.name = f"skeg-{number}"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.copy = folder / f"copy-{number}"
        self.log = folder / f"{self.name}.log"
        self.decisions = folder / f"{self.name}.decisions.jsonl"
        self.command = [skeg, "serve", "--model", model, "--vectors", place]
        self.command += ["--vectors-copy", self.copy, "--vectors-poll-interval", "1"]
        self.command += ["--port", str(self.port), "--decision-log", self.decisions, "--threads", "2"]
        self.clock = clock if FAKETIME else None
        self.store = store
        self.process = None

    def start(self):
        environment = self.store.environment()
        if self.clock:
            faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": self.clock, "DONT_FAKE_MONOTONIC": "1"}
            environment |= faked
        self.process = subprocess.Popen(
            self.command, env=environment, stdout=subprocess.DEVNULL, stderr=self.log.open("a")
        )
        wait_for(f"http://{self.address}/health/ready", self.process)

    def end(self, with_signal=signal.SIGTERM):
        self.process.send_signal(with_signal)
        return self.process.wait(60)

    def metric(self, pattern):
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.search(pattern, text)
        return found.group(1) if found else None

    def generation(self):
        return self.metric(r'skeg_generation_info\{[^}]*generation="([0-9a-f]+)"')

    def count(self, name, result):
        return int(self.metric(rf'{name}_total\{{[^}}]*result="{result}"\}} (\d+)'))


def in_front_of(replicas, folder):
    """The proxy of deploy/haproxy."""
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "SKEG_LISTEN": address}
    environment |= {f"SKEG_{number}": replica.address for number, replica in enumerate(replicas, 1)}
    config = ROOT / "deploy/haproxy/haproxy.cfg"
    log = (folder / "haproxy.log").open("w")
    proxy = subprocess.Popen(["haproxy", "-f", config], env=environment, stdout=log, stderr=log)
    wait_for(f"http://{address}/health/ready", proxy)
    return proxy, f"http://{address}"


def published(skeg, store, place, *flags):
    """`skeg vectors publish|rollback ...` on the place: its answer."""
    command = [skeg, "vectors", *flags, "--store", place, "--json"]
    done = subprocess.run(command, env=store.environment(), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return json.loads(done.stdout)
