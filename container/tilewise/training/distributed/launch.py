"""Start a training process for each GPU of this host, where there are several GPUs or hosts, and watch them.

The processes get torchrun's environment variables. torchrun itself is not used: after SIGTERM it gives its
processes 30 seconds and ends with an error, where SageMaker gives 120 and takes what was left as the model.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from tilewise.errors import UserError
from tilewise.machine import available_cores
from tilewise.stop import StopToken
from tilewise.training.distributed.context import FOLDER

log = logging.getLogger(__name__)

PORT = 7777
"""Of the first host, where all hosts meet (sagemaker-training's)."""

PROCESSES = "TILEWISE_PROCESSES"
"""The environment variable that sets the processes of a host, where that is not one on each GPU."""

MEET_MINUTES = "TILEWISE_MEET_MINUTES"
"""The environment variable that says how long hosts wait for each other, before :class:`Patience` does."""

POLL_SECONDS = 0.2

FAILURE, LEFT = "failure", "left"  # keys of the store


@dataclass(frozen=True)
class Patience:
    """How long hosts and processes wait for each other, in seconds.

    Attributes:
        meet: a host for the others: their images may have to be pulled first.
        grace: after a failure the other processes have so long to notice it; then they are killed.
        leave: the first host, which keeps the store, for the others to leave.

    """

    meet: float = 1800.0
    grace: float = 15.0
    leave: float = 60.0

    @classmethod
    def from_environment(cls) -> Patience:
        """What the environment variable says, and the rest by default.

        Raises:
            UserError: it is no number.

        """
        text = os.environ.get(MEET_MINUTES)
        if text is None:
            return cls()
        try:
            return cls(meet=60 * float(text))
        except ValueError:
            raise UserError(
                f"the environment variable {MEET_MINUTES} is '{text}': it must be a number"
            ) from None


def processes_of_host() -> int:
    """How many processes train on this host: one on each GPU, or one on the CPU.

    Raises:
        UserError: the environment variable that says otherwise is no number, or there are fewer GPUs.

    """
    gpus = torch.cuda.device_count()
    text = os.environ.get(PROCESSES)
    if text is None:
        return max(1, gpus)
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"the environment variable {PROCESSES} is '{text}': it must be a number from 1 up")
    if gpus and int(text) > gpus:
        raise UserError(f"the environment variable {PROCESSES} is {text}, but this machine has {gpus} GPUs")
    return int(text)


def launch(
    hosts: Sequence[str],
    current_host: str,
    interface: str,
    *,
    processes: int,
    stop: StopToken,
    patience: Patience | None = None,
) -> str | None:
    """Run this command in several processes, together with the other hosts'; return when all are over.

    Args:
        hosts: the names of all hosts; the first leads.
        current_host: this one's.
        interface: the network interface that connects them.
        processes: how many to start here.
        stop: when it says so, the processes get SIGTERM.
        patience: with the others; None for the environment's.

    Returns:
        Why it failed, as the first process that did has put it; None where it did not.

    Raises:
        UserError: the hosts do not find each other, or are not alike.

    """
    patience = patience or Patience.from_environment()
    store, address, port = _meet(hosts, current_host, stop, patience)
    if store is None:
        log.info("stopped before the other hosts came: there is no model yet")
        return None
    host = list(hosts).index(current_host)
    try:
        if not _all_came(store, hosts, host, processes=processes, stop=stop, patience=patience):
            log.info("stopped before the other hosts came: there is no model yet")
            return None
        with tempfile.TemporaryDirectory(prefix="tilewise-") as folder:
            common = _environment(hosts, interface, processes) | {
                "WORLD_SIZE": f"{processes * len(hosts)}",
                "LOCAL_WORLD_SIZE": f"{processes}",
                "MASTER_ADDR": address,
                "MASTER_PORT": f"{port}",
                FOLDER: folder,
            }
            log.info("training with %d processes on each of %d hosts", processes, len(hosts))
            children = {
                rank: subprocess.Popen(
                    [sys.executable, *sys.argv],
                    env=common | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank - host * processes}"},
                )
                for rank in range(host * processes, (host + 1) * processes)
            }
            try:
                return _watch(children, store, current_host, stop=stop, grace=patience.grace)
            finally:
                for child in children.values():
                    child.kill()
                    child.wait()
    finally:
        _leave(store, len(hosts), seconds=patience.leave if host == 0 else 0)


def report_failure(store: dist.Store, sentence: str) -> str:
    """Tell all hosts why the job fails; returns what was told first."""
    return store.compare_set(FAILURE, "", sentence).decode()


def _meet(
    hosts: Sequence[str], current_host: str, stop: StopToken, patience: Patience
) -> tuple[dist.TCPStore | None, str, int]:
    """The store through which all processes find each other, with its address and port."""
    if current_host not in hosts:
        raise UserError(f"resourceconfig.json: current_host {current_host} is not among the hosts {hosts}")
    if len(hosts) == 1:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        return store, "127.0.0.1", store.port
    if current_host == hosts[0]:
        try:
            store = dist.TCPStore("127.0.0.1", PORT, is_master=True, wait_for_workers=False)
        except RuntimeError as error:
            raise UserError(f"port {PORT} of {current_host} cannot be used: {error}") from None
        return store, "127.0.0.1", PORT
    give_up = time.monotonic() + patience.meet
    while not stop.requested:
        try:
            address = str(socket.getaddrinfo(hosts[0], PORT, type=socket.SOCK_STREAM)[0][4][0])
            with socket.create_connection((address, PORT), timeout=5):
                pass
            timeout = timedelta(seconds=patience.meet)
            return dist.TCPStore(address, PORT, is_master=False, timeout=timeout), address, PORT
        except OSError as error:  # its name is not known yet, or it does not listen yet
            if time.monotonic() > give_up:
                raise UserError(
                    f"host {hosts[0]}, which leads, cannot be reached at port {PORT} from {current_host} "
                    f"({error}): the hosts must reach each other (security groups, network isolation), and "
                    "all must run this image"
                ) from None
            time.sleep(1)
    return None, "", 0


def _all_came(
    store: dist.TCPStore,
    hosts: Sequence[str],
    host: int,
    *,
    processes: int,
    stop: StopToken,
    patience: Patience,
) -> bool:
    """Wait for all hosts; returns whether they came before ``stop`` said so.

    Raises:
        UserError: one does not come, or has another number of processes.

    """
    give_up, said = time.monotonic() + patience.meet, False
    try:
        store.set(f"processes/{host}", f"{processes}")
        while missing := [
            name for place, name in enumerate(hosts) if not store.check([f"processes/{place}"])
        ]:
            if stop.requested:
                return False
            if time.monotonic() > give_up:
                raise UserError(
                    f"host {', '.join(missing)} did not join within {patience.meet / 60:g} minutes: the "
                    "hosts must reach each other (security groups, network isolation), and all must run this "
                    "image"
                )
            if not said:
                log.info("waiting for the other hosts: %s", ", ".join(missing))
                said = True
            time.sleep(POLL_SECONDS)
        counts = {name: int(store.get(f"processes/{place}")) for place, name in enumerate(hosts)}
    except RuntimeError as error:
        raise UserError(f"host {hosts[0]}, which leads, has ended, or cannot be reached: {error}") from None
    if len(set(counts.values())) > 1:
        gpu_counts = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UserError(
            f"all hosts must have the same number of GPUs, but have: {gpu_counts}; use one instance type"
        )
    return True


def _environment(hosts: Sequence[str], interface: str, processes: int) -> dict[str, str]:
    """The environment of this process, with what the others need and nobody has set."""
    environment = dict(os.environ)
    interfaces = {name for _, name in socket.if_nameindex()}
    if len(hosts) == 1:
        interface = "lo"
    elif interface not in interfaces:
        log.warning(
            "there is no network interface %s, which resourceconfig.json names: there are %s; gloo and NCCL "
            "choose one themselves",
            interface,
            ", ".join(sorted(interfaces)),
        )
    if interface in interfaces:
        environment = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface} | environment
    threads = max(1, available_cores() // processes)
    return {"OMP_NUM_THREADS": f"{threads}"} | environment


def _watch(
    children: Mapping[int, subprocess.Popen[bytes]],
    store: dist.TCPStore,
    host: str,
    *,
    stop: StopToken,
    grace: float,
) -> str | None:
    """Wait for the processes, pass a request to stop on, and end all when one on any host has failed."""
    told, kill_at = False, None
    while any(child.poll() is None for child in children.values()):
        time.sleep(POLL_SECONDS)
        if stop.requested and not told:
            told = True
            for child in children.values():
                child.send_signal(signal.SIGTERM)
        if kill_at is None and _failure(children, store, host):
            kill_at = time.monotonic() + grace
        if kill_at is not None and time.monotonic() > kill_at:
            for child in children.values():
                child.kill()
    return _failure(children, store, host)


def _failure(children: Mapping[int, subprocess.Popen[bytes]], store: dist.TCPStore, host: str) -> str | None:
    """Why the job fails, on whichever host; None as long as it does not."""
    try:
        for rank, child in children.items():
            code = child.poll()
            if code:
                return report_failure(store, f"AlgorithmError: {_ending(rank, host, code)}")
        return store.get(FAILURE).decode() if store.check([FAILURE]) else None
    except RuntimeError:
        return "AlgorithmError: the first host has ended, or cannot be reached any more"


def _ending(rank: int, host: str, code: int) -> str:
    process = f"the training process {rank} on host {host}"
    if code == -signal.SIGKILL:
        return f"{process} was killed, probably since its memory was used up: use a larger instance"
    if code < 0:
        return f"{process} ended by {signal.Signals(-code).name}"
    return f"{process} ended with exit code {code}"


def _leave(store: dist.TCPStore, hosts: int, *, seconds: float) -> None:
    """Say so, and wait for the others: the store lives in the first host's process, which ends last."""
    with suppress(RuntimeError):
        store.add(LEFT, 1)
        give_up = time.monotonic() + seconds
        while store.add(LEFT, 0) < hosts and time.monotonic() < give_up:
            time.sleep(POLL_SECONDS)


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
