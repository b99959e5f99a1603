"""Two hosts on this machine, each with a network of its own; needs Linux, root and the program ip."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOSTS = ("algo-1", "algo-2")


class NoNetworks(Exception):
    """Networks cannot be made here; the message says why."""


@contextmanager
def two_hosts() -> Iterator[list[list[str]]]:
    """Two network namespaces with an interface eth0 each, whose hosts know each other as :data:`HOSTS`.

    Yields:
        For each host the command that runs another one there.

    Raises:
        NoNetworks: they cannot be made here.

    """
    if os.geteuid() or not shutil.which("ip"):
        raise NoNetworks("it takes root and the program ip to make networks")
    spaces = [f"tilewise-{os.getpid()}-{host}" for host in HOSTS]
    addresses = [f"10.213.77.{number}" for number, _ in enumerate(HOSTS, 1)]
    steps = [f"ip netns add {space}" for space in spaces]
    steps += [f"ip link add eth0 netns {spaces[0]} type veth peer name eth0 netns {spaces[1]}"]
    for space, address in zip(spaces, addresses, strict=True):
        steps += [f"ip -n {space} addr add {address}/24 dev eth0"]
        steps += [f"ip -n {space} link set {device} up" for device in ("lo", "eth0")]
    names = [f"{address} {host}\n" for address, host in zip(addresses, HOSTS, strict=True)]
    try:
        for step in steps:
            done = subprocess.run(step.split(), capture_output=True, text=True)
            if done.returncode:
                raise NoNetworks(f"{step}: {done.stderr.strip()}")
        for space in spaces:  # `ip netns exec` shows it as /etc/hosts
            (Path("/etc/netns") / space).mkdir(parents=True)
            (Path("/etc/netns") / space / "hosts").write_text("127.0.0.1 localhost\n" + "".join(names))
        yield [["ip", "netns", "exec", space] for space in spaces]
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / space, ignore_errors=True)
