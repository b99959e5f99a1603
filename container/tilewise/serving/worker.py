"""The worker process: gunicorn's threaded one, in which no thread ever waits for a client."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import selectors
import socket
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import ThreadWorker

from tilewise.machine import memory_limit
from tilewise.serving.incoming import (
    MEGABYTE,
    TOO_MANY_BYTES,
    TOO_SLOW_BODY,
    TOO_SLOW_HEAD,
    IncomingRequest,
    Refusal,
    error_body,
    refusal_of,
)

HEAD_S = 10.0
"""For a whole head, from the connection or from its first byte on."""
BODY_S, BODY_S_FOR_EACH_MB = 30.0, 4.0
"""For a whole body, and for each megabyte that has come: two megabits a second are fast enough."""
KEEP_ALIVE_S = 75.0
"""Longer than most callers keep a connection: the caller closes it, not we."""
SEND_S = 60.0
"""For a whole answer."""
LINGER_S = 5.0
"""After an answer, for the client to close: what it still sends would reset the connection."""
STOP_S = 2.0
"""For connections without a whole head, when the worker is to stop."""
CHECK_S = 0.25
GIVE_UPS, GIVE_UP_S = 5, 0.02
"""So many clients that time out together are given up on at a time, and so often: a ping waits for few."""
EVENTS, ACCEPTS, SILENT = 8, 64, 16
"""So many events are handled before the poller takes so many new connections, and looks at the newest."""
HEALTH = "/ping"
"""What the poller answers itself: it takes a moment, and no thread has to get its turn for it."""
HEALTH_CHECK = f"GET {HEALTH} ".encode()
OPEN_FILES = 65536
SPARE_FILES = 200
"""That are no connections."""
RECEIVE_BYTES = 64 * 1024


class Outbox:
    """What is to be sent to a client; to gunicorn it looks like a socket that never blocks."""

    def __init__(self) -> None:
        self.pending = bytearray()

    def sendall(self, data: bytes) -> None:
        """Keep the bytes until they are sent."""
        self.pending += data

    def send_some(self, to: socket.socket) -> None:
        """Send what goes without waiting.

        Raises:
            OSError: the client has left.

        """
        with contextlib.suppress(BlockingIOError):
            while self.pending:
                sent = to.send(memoryview(self.pending)[:MEGABYTE])
                del self.pending[:sent]


class Connection:
    """A client's connection: what has come from it, what goes to it, and until when that may take.

    Attributes:
        socket: never blocks.
        sock, client, server: as gunicorn's handling of a request asks for them.
        state: whether a request is being received, answered by a thread, its answer sent, or the end awaited.
        deadline: when to give up waiting for the client, in seconds of :func:`time.monotonic`.
        client_left: set when it closes the connection while its request is being answered.
        watched: whether the poller looks at it.

    """

    def __init__(self, accepted: socket.socket, client: object, server: object, *, incoming: IncomingRequest):
        self.socket = accepted
        self.sock = Outbox()
        self.client, self.server = client, server
        self.incoming = incoming
        self.state: Literal["receiving", "answering", "sending", "lingering", "closed"] = "receiving"
        self.since = time.monotonic()
        self.deadline = self.since + HEAD_S
        self.client_left = threading.Event()
        self.watched = False
        self.keep = False


class Worker(ThreadWorker):
    """Gunicorn's threaded worker, whose poller reads heads and bodies and sends answers.

    Gunicorn's own gives a connection to a thread as soon as its first byte has come, and the thread waits for
    the rest: as many slow clients as there are threads stop everything, health checks included. Here a thread
    gets a request that is whole, and the poller sends what the thread leaves. All waiting has a total
    deadline: a client that sends a byte now and then does not prolong it. Whatever hundreds of clients do at
    once, the poller does a few at a time, and looks for new connections between them: a health check is
    answered as soon as it is accepted.
    """

    alive: bool
    max_requests: int
    worker_connections: int

    def init_process(self) -> None:
        """Start."""
        files = open_files_limit()
        self.worker_connections = min(self.worker_connections, files - SPARE_FILES)
        self.recycle_after, self.max_requests = self.max_requests, sys.maxsize
        settings = self.app.settings
        self.connections: dict[Connection, None] = {}
        self.held_bytes = 0
        self.max_held_bytes = max(2 * settings.max_payload_bytes, memory_limit() // settings.workers // 8)
        self.silent: deque[Connection] = deque(maxlen=SILENT)
        self.next_check = 0.0
        self.computed = 0
        super().init_process()

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001  # as gunicorn has it
        """Take new connections, or leave them to others; stop listening when the worker is to stop.

        Gunicorn's own would keep the port open while it answers what it holds: a client that connected
        meanwhile would wait for an answer that never comes, instead of being refused.
        """
        super().set_accept_enabled(enabled)
        if not self.alive:
            for listener in self.sockets:
                listener.close()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """One turn: wait until something happens, and go on with it."""
        if self.connections:
            timeout = min(timeout, max(0.0, self.next_check - time.monotonic()))
        for number, (key, _) in enumerate(self.poller.select(timeout), start=1):
            key.data(key.fileobj)
            if number % EVENTS == 0:
                self.look_for_health_checks()

    def look_for_health_checks(self) -> None:
        """Answer those that have come since this turn began, before what else it has to go on with."""
        for listener in self.sockets if self._accepting else ():
            self.accept(listener)
        newest = list(self.silent)
        self.silent.clear()
        self.silent.extend(each for each in newest if self.is_silent(each))

    def is_silent(self, connection: Connection) -> bool:
        """Whether nothing has come on it yet; a health check is answered."""
        try:
            if connection.socket.recv(len(HEALTH_CHECK), socket.MSG_PEEK) == HEALTH_CHECK:
                self.on_event(connection, connection.socket)
        except BlockingIOError:
            return True
        except OSError:
            pass  # it has left: the poller will tell
        return False

    def accept(self, listener: Any) -> None:
        """Take connections, one at a time where several workers share them."""
        for _ in range(ACCEPTS if self.cfg.workers == 1 else 1):
            try:
                self.accept_one(listener)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self.drop_slowest()
                return  # else there is none: it has left again, or another worker was faster

    def accept_one(self, listener: Any) -> None:
        """Take a connection; where there are too many, the one goes whose head has been coming longest.

        Raises:
            OSError: there is none, or no file for it.

        """
        if len(self.connections) >= self.worker_connections - 1:
            self.drop_slowest()
        accepted, client = listener.accept()
        accepted.settimeout(0)
        incoming = self.expect_request(client)
        connection = Connection(accepted, client, listener.getsockname(), incoming=incoming)
        self.connections[connection] = None
        self.nr_conns += 1
        if self.is_silent(connection):
            self.silent.append(connection)
        if connection.state in ("receiving", "answering") and not connection.watched:
            self.watch(connection, selectors.EVENT_READ)

    def expect_request(self, client: object) -> IncomingRequest:
        """A request of which nothing has come yet."""
        return IncomingRequest(self.cfg, client, self.app.settings.max_payload_bytes)

    def watch(self, connection: Connection, events: int) -> None:
        """Be told when bytes come, or can be sent; 0 for neither."""
        if connection.watched:
            self.poller.unregister(connection.socket)
        connection.watched = bool(events)
        if events:
            self.poller.register(connection.socket, events, partial(self.on_event, connection))

    def on_event(self, connection: Connection, _socket: object) -> None:
        """Go on with a connection."""
        try:
            match connection.state:
                case "receiving":
                    self.receive(connection)
                case "answering":
                    self.look_whether_it_left(connection)
                case "sending":
                    self.send(connection)
                case "lingering":
                    if not connection.socket.recv(RECEIVE_BYTES):
                        self.close(connection)
        except BlockingIOError:
            pass
        except OSError:
            self.lose(connection)

    def lose(self, connection: Connection) -> None:
        """The client has left."""
        connection.client_left.set()
        if connection.state == "answering":
            self.watch(connection, 0)  # the thread is to finish first
        else:
            self.close(connection)

    def close(self, connection: Connection) -> None:
        """Close it and forget it."""
        if connection.state == "closed":
            return
        self.watch(connection, 0)
        self.held_bytes -= connection.incoming.held_bytes
        connection.state = "closed"
        connection.socket.close()
        del self.connections[connection]
        self.nr_conns -= 1

    def drop_slowest(self) -> None:
        """Make room for a new connection."""
        receiving = [each for each in self.connections if each.state == "receiving"]
        waiting = [each for each in receiving if each.incoming.head is None] or receiving
        if waiting:
            self.close(min(waiting, key=lambda each: each.since))

    def receive(self, connection: Connection) -> None:
        """Take what has come."""
        data = connection.socket.recv(RECEIVE_BYTES)
        if data:
            self.take(connection, data)
        else:
            self.close(connection)

    def take(self, connection: Connection, data: bytes) -> None:
        """Add bytes to the request, and answer it when it is complete."""
        incoming, now = connection.incoming, time.monotonic()
        if not incoming.begun:
            connection.since, connection.deadline = now, now + HEAD_S
        before, had_head = incoming.held_bytes, incoming.head is not None
        try:
            incoming.feed(data)
        except ParseException as error:
            self.refuse(connection, refusal_of(error))
            return
        if incoming.head is not None:
            connection.since = connection.since if had_head else now
            megabytes = incoming.held_bytes / MEGABYTE
            connection.deadline = connection.since + BODY_S + BODY_S_FOR_EACH_MB * megabytes
        if not incoming.complete and self.held_bytes + incoming.held_bytes - before > self.max_held_bytes:
            incoming.refuse(TOO_MANY_BYTES)
        self.held_bytes += incoming.held_bytes - before
        if incoming.refusal:
            self.refuse(connection, incoming.refusal)
        elif incoming.complete:
            self.answer(connection)
        elif incoming.expects_continue and not had_head:
            connection.socket.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def answer(self, connection: Connection) -> None:
        """Give a complete request to a thread, but for a health check with nothing behind it."""
        incoming = connection.incoming
        incoming.head.body = incoming.take_body(connection.client_left)
        connection.state = "answering"
        if incoming.head.path == HEALTH and not incoming.rest():
            self.go_on(connection, keep=self.handle(connection))
        else:
            self.enqueue_req(connection)

    def handle(self, connection: Connection) -> bool:
        """Answer a request, mostly on a thread. Returns whether the connection can take another one."""
        keep = False
        try:
            keep = self.handle_request(connection.incoming.head, connection)
        except StopIteration:
            pass  # gunicorn has logged why the answer breaks off
        except Exception as error:
            self.log.error("the request failed", exc_info=error)
            connection.sock.sendall(plain_response(Refusal(500, "internal error")))
        with contextlib.suppress(OSError):
            connection.sock.send_some(connection.socket)
        return keep

    def finish_request(self, connection: Connection, answered: Future[bool]) -> None:
        """Go on when a thread has answered."""
        self.go_on(connection, keep=answered.result())

    def go_on(self, connection: Connection, *, keep: bool) -> None:
        """Send the answer, and go on with the connection."""
        connection.keep = keep
        self.computed += connection.incoming.head.method == "POST"
        try:
            connection.state = "sending"
            connection.deadline = time.monotonic() + SEND_S
            self.send(connection)
        except OSError:
            self.lose(connection)

    def send(self, connection: Connection) -> None:
        """Send what is left of the answer, then wait for the next request or for the end."""
        connection.sock.send_some(connection.socket)
        if connection.sock.pending:
            self.watch(connection, selectors.EVENT_WRITE)
        elif connection.client_left.is_set():
            self.close(connection)
        elif connection.keep:
            self.await_next(connection)
        else:
            self.linger(connection)

    def await_next(self, connection: Connection) -> None:
        """Take the next request of a connection."""
        rest = connection.incoming.rest()
        self.held_bytes -= connection.incoming.held_bytes
        connection.incoming = self.expect_request(connection.client)
        connection.state = "receiving"
        connection.since = time.monotonic()
        connection.deadline = connection.since + (KEEP_ALIVE_S if self.alive else STOP_S)
        self.watch(connection, selectors.EVENT_READ)
        if rest:
            self.take(connection, rest)

    def linger(self, connection: Connection) -> None:
        """Say that nothing more comes, and wait for the client to close."""
        connection.socket.shutdown(socket.SHUT_WR)
        connection.state = "lingering"
        connection.deadline = time.monotonic() + LINGER_S
        self.watch(connection, selectors.EVENT_READ)

    def refuse(self, connection: Connection, refusal: Refusal) -> None:
        """Answer a request that no thread needs to see; hundreds at once so cost a ping some milliseconds."""
        self.log.refused(connection.client, refusal)
        self.app.metrics.answered("", refusal.status)
        connection.sock.sendall(plain_response(refusal))
        connection.keep = False
        connection.state = "sending"
        connection.deadline = time.monotonic() + SEND_S
        try:
            self.send(connection)
        except OSError:
            self.lose(connection)

    def look_whether_it_left(self, connection: Connection) -> None:
        """Its request is being answered: the end means that nobody waits for it."""
        if connection.socket.recv(1, socket.MSG_PEEK):
            self.watch(connection, 0)  # the next request: later
        else:
            self.lose(connection)

    def murder_pending(self) -> None:
        """Give up on clients that take too long; gunicorn calls this in each turn of its loop."""
        now = time.monotonic()
        if now < self.next_check:
            return
        late = []
        for connection in self.connections:
            if not self.alive and (connection.incoming.head is None or connection.state == "lingering"):
                connection.deadline = min(connection.deadline, now + STOP_S)
            if now >= connection.deadline and connection.state != "answering":
                late.append(connection)
        for connection in late[:GIVE_UPS]:
            self.give_up(connection)
        self.next_check = now + (GIVE_UP_S if len(late) > GIVE_UPS else CHECK_S)
        self.recycle()

    def recycle(self) -> None:
        """End after very many requests, in a quiet moment if one comes; gunicorn forks a fresh worker.

        The last net under what may leak: the caches of libraries, or a heap in pieces.
        """
        if not self.alive or self.computed < self.recycle_after:
            return
        quiet = all(each.state != "answering" for each in self.connections)
        if quiet or self.computed >= 2 * self.recycle_after:
            self.log.info("this worker has answered %d requests: a fresh one takes over", self.computed)
            self.alive = False

    def give_up(self, connection: Connection) -> None:
        """It has taken too long."""
        incoming = connection.incoming
        if connection.state != "receiving" or not incoming.begun:
            self.close(connection)
        elif incoming.head is None:
            self.refuse(connection, TOO_SLOW_HEAD)
        else:
            self.held_bytes -= incoming.held_bytes
            incoming.refuse(TOO_SLOW_BODY)
            self.refuse(connection, TOO_SLOW_BODY)


def open_files_limit() -> int:
    """How many files and connections this process may have open, as many as it is allowed to want.

    The kernel's table of them grows to that at once. Each time that it grows it waits for all processors,
    for 10 ms and more in a process of several threads: a burst of connections would pay that, and its pings.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(now, min(most, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    with open(os.devnull) as file:
        os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, min(wanted, OPEN_FILES) - 1))
    return wanted


def plain_response(refusal: Refusal) -> bytes:
    """A whole answer, for where there is no app."""
    body = error_body(refusal.reason, refusal.retry_after_s).encode()
    retry = f"Retry-After: {refusal.retry_after_s}\r\n" if refusal.retry_after_s is not None else ""
    head = (
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n"
    )
    return head.encode() + body
