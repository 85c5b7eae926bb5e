"""The fork server of `coinspace up`: one process imports everything, the others are its forks.

    supervisor ── arguments, environment, pipes ──► fork server ─fork─► helper ─fork─► process

A fork shares the imported modules with the fork server: it starts in some 10 ms instead of 1 s and
needs about 45 MB less memory. The helper ends at once, so that the new process becomes a child of
the supervisor, the nearest subreaper: its end and its exit code are seen whatever happens to the
fork server. The fork server has one thread, so that no lock is held in a fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from typing import IO

import structlog
from setproctitle import setproctitle

# from prctl.h: orphaned descendants become children of this process
PR_SET_CHILD_SUBREAPER = 36
# of all processes that `coinspace up` starts
MODULES = (
    "coinspace.cli",
    *(
        f"coinspace.{role}.worker"
        for role in ("collector", "rates", "storage", "aggregator", "index")
    ),
    "coinspace.endpoint.worker",
    "coinspace.alerts.worker",
    "coinspace.simulator.simulation",
    "coinspace.storage.commands",
)
REQUEST_BYTES = 1 << 20
# the first answer follows imports, which take 2 s, much longer on a busy host
REPLY_S = 90.0
REAP_INTERVAL_S = 1.0

log = structlog.get_logger("forkserver")


def serve(server: socket.socket) -> None:
    """Fork a process for each request. Returns in each of these processes, ready to run.

    Raises: SystemExit when the supervisor is gone.
    """
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    # a later collection would write to each object, and so copy the shared pages
    gc.freeze()
    setproctitle("coinspace fork server")
    while True:
        request, fds, _, _ = socket.recv_fds(server, REQUEST_BYTES, 2)
        if not request:
            raise SystemExit
        try:
            pid = _fork()
        except OSError as error:
            server.send(str(error).encode())
        else:
            if not pid:
                server.close()
                _become(request, fds)
                return
            server.send(b"%d" % pid)
        for fd in fds:
            os.close(fd)


def _fork() -> int:
    """Fork a process whose parent is the supervisor. Returns: its pid, 0 in the process itself.

    Raises: OSError when the operating system refuses it.
    """
    with contextlib.ExitStack() as opened:
        pid_out, pid_in, go_out, go_in = (*os.pipe(), *os.pipe())
        for fd in (pid_out, pid_in, go_out, go_in):
            opened.callback(os.close, fd)
        helper = os.fork()
        if helper:
            _, status = os.waitpid(helper, 0)
            if code := os.waitstatus_to_exitcode(status):
                raise OSError(code, os.strerror(code))
            os.write(go_in, b"1")
            return int(os.read(pid_out, 20))
        try:
            pid = os.fork()
        except OSError as error:
            os._exit(error.errno or 1)
        if pid:
            os.write(pid_in, b"%d" % pid)
            os._exit(0)
        # the helper is still the parent: its end must not look like the supervisor's
        os.read(go_out, 1)
        return 0


def _become(request: bytes, fds: list[int]) -> None:
    """Make this process what the request describes."""
    asked = json.loads(request)
    os.setsid()
    for number, fd in enumerate(fds, 1):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv[1:] = asked["arguments"]
    title = " ".join([sys.executable, "-m", "coinspace", *sys.argv[1:]])
    setproctitle(title.encode(errors="replace").decode())


class Forked:
    """A process that the fork server has made: what `asyncio.subprocess.Process` is for others."""

    def __init__(
        self,
        pid: int,
        outputs: Sequence[asyncio.StreamReader],
        pipes: Sequence[asyncio.BaseTransport],
    ) -> None:
        self.pid = pid
        self.stdout, self.stderr = outputs
        self.returncode: int | None = None
        self._pipes = pipes
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        # readable once the process has ended
        self._watch = os.pidfd_open(pid)
        self._loop.add_reader(self._watch, self._reap)

    def _reap(self) -> None:
        self._loop.remove_reader(self._watch)
        os.close(self._watch)
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()

    async def wait(self) -> int:
        """Wait for the end of the process. Returns: its exit code, negative for a signal."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        # until it is reaped here, no other process has this pid
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End the process if it still runs, and close the pipes, which others may keep open."""
        self.kill()
        for pipe in self._pipes:
            pipe.close()


class _Ended(Exception):
    """The fork server has ended."""


class ForkServer:
    """Starts the fork server when it is needed, and has it fork processes.

    Args: command: runs `main` of this module; the number of a socket follows.
    """

    def __init__(self, command: Sequence[str] = (sys.executable, "-P", "-m", __name__)) -> None:
        self._command = tuple(command)
        self._server: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._one = asyncio.Lock()
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    async def fork(self, arguments: Sequence[str], environment: dict[str, str]) -> Forked:
        """Start `coinspace` with arguments, in a session of its own, with pipes for its output.

        Raises: OSError when the process cannot be started.
        """
        # not orjson: bytes that are no UTF-8 are lone surrogates in names of files and in variables
        described = {"arguments": list(arguments), "environment": environment}
        request = json.dumps(described).encode()
        async with self._one:
            with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
                readers: list[IO[bytes]] = []
                writers: list[IO[bytes]] = []
                for _ in range(2):
                    reader, writer = os.pipe()
                    readers.append(ours.enter_context(os.fdopen(reader, "rb", 0)))
                    writers.append(theirs.enter_context(os.fdopen(writer, "wb", 0)))
                pid = await self._ask(request, [one.fileno() for one in writers])
                made = await _process(pid, readers)
                # the process owns them now
                ours.pop_all()
            return made

    async def end(self) -> None:
        """End the fork server; its forks go on, and a next one has the code installed then."""
        async with self._one:
            await self._end()

    async def reap_orphans(self) -> None:
        """Reap descendants of processes that ended before them, until cancelled."""
        seen = 0
        while True:
            await asyncio.sleep(REAP_INTERVAL_S)
            seen = self._reap_orphan(seen)

    def _reap_orphan(self, seen: int) -> int:
        """Reap a process that had ended at the last look, too. Returns: the one to reap next."""
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return 0
        pid = 0 if found is None else found.si_pid
        # the event loop reaps its own processes long before the second look
        if pid and pid == seen and not self._one.locked():
            os.waitpid(pid, os.WNOHANG)
        return pid

    async def _start(self) -> None:
        await self._end()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._socket = ours
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST_BYTES)
            self._server = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                # a pipe as in the forks, which have Python's objects for it
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                # numpy's threads would run while it forks
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )

    async def _ask(self, request: bytes, fds: list[int]) -> int:
        if self._server is not None:
            with contextlib.suppress(_Ended):
                return await self._reply(request, fds)
        await self._start()
        try:
            return await self._reply(request, fds)
        except _Ended:
            reason = await self._last_words()
            raise OSError(f"fork server: expected it to run, it ended: {reason}") from None

    async def _reply(self, request: bytes, fds: list[int]) -> int:
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [request], fds)
            received = asyncio.get_running_loop().sock_recv(self._socket, REQUEST_BYTES)
            reply = await asyncio.wait_for(received, REPLY_S)
        except (BrokenPipeError, ConnectionResetError):
            raise _Ended from None
        except BaseException as error:
            # a late answer must not be taken for that to the next request
            await self._end()
            if isinstance(error, TimeoutError):
                raise OSError(f"fork server: expected an answer within {REPLY_S:g} s") from None
            raise
        if not reply:
            raise _Ended
        if not reply.isdigit():
            raise OSError(f"fork server: {reply.decode(errors='replace')}")
        return int(reply)

    async def _last_words(self) -> str:
        assert self._server is not None
        assert self._server.stdout is not None
        with contextlib.suppress(TimeoutError):
            text = await asyncio.wait_for(self._server.stdout.read(), 1)
            lines = text.decode(errors="replace").split("\n")
            return next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
        return "it wrote nothing"

    async def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        server, self._server = self._server, None
        if server is not None and server.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                server.kill()
            await server.wait()


async def _process(pid: int, outputs: Sequence[IO[bytes]]) -> Forked:
    loop = asyncio.get_running_loop()
    streams = [asyncio.StreamReader() for _ in outputs]
    pipes = [
        (await loop.connect_read_pipe(partial(asyncio.StreamReaderProtocol, stream), output))[0]
        for stream, output in zip(streams, outputs, strict=True)
    ]
    return Forked(pid, streams, pipes)


def main() -> None:
    """Serve the supervisor; in each fork run the `coinspace` command."""
    with socket.socket(fileno=int(sys.argv[1])) as server:
        serve(server)
    sys.argv[0] = "coinspace"
    importlib.import_module("coinspace.cli").main()


if __name__ == "__main__":
    main()
