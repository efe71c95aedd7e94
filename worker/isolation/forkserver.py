"""The fork server of a worker: a process that forks its children.

It has loaded the processor's code once.

``python -m worker.isolation.forkserver <pid of the worker>`` is what
:mod:`~worker.isolation.fork_server_link` starts, and talks to over the socket that is
its standard input; :mod:`~worker.isolation.child` is what then runs in a child. The
fork server runs no session, starts no thread and makes no processor: it forks code. A
child shares its memory until it writes to it, and starts in 10 ms.

It ends with the worker, and kills the children that it has forked. If it is killed
itself, its children go on with their sessions; the worker starts another fork server.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Final, NoReturn

from server.config.settings import ConfigError
from server.system import processes
from worker.isolation import child, temporary
from worker.isolation.confinement import code_paths
from worker.isolation.messages import Ended, Fork, Forked, FromServer, Inbox, Loaded, NotForked, Refused, Setup, send
from worker.processors import registry

_READ_BYTES: Final = 65536


def main() -> NoReturn:
    """Serve the worker until its connection ends."""
    worker_pid = int(sys.argv[1])
    processes.ignore_stop_signals()
    processes.die_with_parent(worker_pid)  # while foreign code is loaded, which may hang
    processes.lower_limit(resource.RLIMIT_CORE, 0)  # a core would hold a photo
    worker = socket.socket(fileno=os.dup(0))
    processes.close_standard_input()
    server = _Server(worker, worker_pid)
    server.load()
    processes.die_with_parent(worker_pid, 0)  # from here on it has to kill its children first
    server.serve()


class _Server:
    """The connection to the worker, and the children that were forked."""

    def __init__(self, worker: socket.socket, worker_pid: int) -> None:
        self._worker = worker
        self._worker_pid = worker_pid
        self._plan: child.Plan | None = None
        self._inbox = Inbox(Setup | Fork)
        self._sockets: list[int] = []
        self._early: list[Setup | Fork] = []
        """The requests that came while the code was loaded."""
        self._children: dict[int, Path] = {}
        """The children's temporary folders, by process id."""
        self._bell, ring = os.pipe()
        for end in (self._bell, ring):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the wakeup descriptor needs a handler, whatever it does
        signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
        self._ring = ring

    def __repr__(self) -> str:
        return f"<_Server children={len(self._children)}>"

    def load(self) -> None:
        """Load the processor's code; end the process if there is none."""
        while not (messages := self._receive()):
            pass
        first, *self._early = messages
        assert isinstance(first, Setup)
        sys.path[:] = first.path
        try:
            make = registry.find(first.processor)
        except ConfigError as error:
            self._tell(Refused(str(error)))
            os._exit(0)
        code = code_paths(sys.modules, first.path, [Path(each) for each in first.hidden])
        self._plan = child.Plan(make, first, code)
        gc.collect()
        gc.freeze()  # or each child's first collection would write to, and so copy, all of it
        self._tell(Loaded())

    def serve(self) -> NoReturn:
        """Fork when asked, and report how children end."""
        for _ in self._early:
            self._fork(self._sockets.pop(0))
        poll = select.poll()
        poll.register(self._worker, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        while True:
            ready = [file for file, _ in poll.poll()]
            if self._bell in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._bell, _READ_BYTES)
                self._reap()
            if self._worker.fileno() in ready:
                for _ in self._receive():
                    self._fork(self._sockets.pop(0))

    def _receive(self) -> list[Setup | Fork]:
        try:
            data, files, _, _ = socket.recv_fds(self._worker, _READ_BYTES, 64)
        except ConnectionResetError:
            data, files = b"", []
        if not data:
            self._end()
        for file in files:
            os.set_inheritable(file, False)  # not for what a processor starts: it would hold the connection open
        self._sockets += files
        return self._inbox.take(data)

    def _fork(self, theirs: int) -> None:
        assert self._plan is not None
        folder = None
        try:
            folder = temporary.make(self._plan.setup.temporary)
            pid = os.fork()
        except OSError as error:
            if folder is not None:
                temporary.remove(folder)
            self._tell(NotForked(str(error)))
        else:
            if pid == 0:
                try:
                    for file in (self._bell, self._ring, *self._sockets):
                        os.close(file)
                    self._worker.close()
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    child.main(socket.socket(fileno=theirs), self._plan, folder)
                finally:
                    os._exit(child.BROKEN)
            self._children[pid] = folder
            self._tell(Forked(pid))
        os.close(theirs)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if pid in self._children:  # or a process that the processor's code started when it was loaded
                    folder = self._children.pop(pid)
                    processes.kill_group(pid)  # or one that it has left behind writes there again
                    self._tell(Ended(pid, os.waitstatus_to_exitcode(status)))  # before what may take a while
                    temporary.remove(folder)

    def _tell(self, message: FromServer) -> None:
        try:
            send(self._worker, message)
        except OSError:
            self._end()

    def _end(self) -> NoReturn:
        """Kill all children and this process: the worker's connection has ended.

        The children may not notice it by themselves: they spin, or run foreign code.
        """
        for pid, folder in self._children.items():
            processes.kill_family(pid)
            temporary.remove(folder)
        if os.getppid() != self._worker_pid and self._plan is not None:
            temporary.remove_all(self._plan.setup.temporary)
        processes.kill_group(0)
        os._exit(0)


if __name__ == "__main__":
    main()
