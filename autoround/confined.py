"""Other people's programs in a process of their own, with limits of time and memory.

A model's tokenizer and its chat template are programs: repeats inside repeats in a regular
expression, a text that is doubled forty times. What runs them (Rust, Jinja) cannot be stopped from
within, and ends the process where memory is used up. So they run in a child, which can be killed.

The child is forked, because a new interpreter would import for seconds. Only Linux does that
safely beside the threads of other libraries; elsewhere the same code runs in this process, and
there are no limits.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

#: Seconds of a processor that one request may take, and that the start may take.
SECONDS, STARTING_SECONDS = 30, 120
#: Bytes of memory beyond those that the process has when it is forked.
MEMORY = 4 << 30
#: How much longer than its processor time a request may take: machines are busy, processes stopped.
PATIENCE = 20


class Message(NamedTuple):
    """What is asked for or answered: a value that JSON can hold, and bytes beside it."""

    value: Any = None
    data: bytes = b""


#: Answers a request.
Handler: TypeAlias = Callable[[Message], Message]


class ConfinedError(Exception):
    """What the code in the child raised, in its words.

    kind: name of the exception's class.
    """

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind


class LimitError(Exception):
    """The child took more time or memory than it may, or died; says which, without a subject."""


class _ThereError(Exception):
    """Shows the child's traceback below that of the error it caused here."""


class Confined:
    """A handler in a process of its own, asked one thing at a time.

    Args:
        make: makes the handler, in the child.

    Raises:
        ConfinedError, LimitError: it cannot be made.
    """

    def __init__(self, make: Callable[[], Handler]) -> None:
        self._handler: Handler | None = None
        self._dead: LimitError | None = None
        if sys.platform != "linux":
            self._handler = _answering(make)
            return
        ours, theirs = Pipe()
        with warnings.catch_warnings():
            # Of Python 3.12 on, for any process with threads: the child calls none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = os.fork()
        if self._process == 0:
            _live(make, theirs)
        theirs.close()
        self._connection = ours
        self._stop = weakref.finalize(self, _end, self._process, ours, os.getpid())
        self._receive(STARTING_SECONDS)

    def ask(self, value: Any, data: bytes = b"") -> Message:
        """Return what the handler answers.

        Args:
            value: of the request; JSON holds it.
            data: beside it.

        Raises:
            ConfinedError: the handler raised something.
            LimitError: it takes more than SECONDS of a processor or MEMORY, now or before.
        """
        if self._handler is not None:
            return self._handler(Message(value, data))
        if self._dead is not None:
            raise self._dead
        with suppress(ConnectionError):
            _send(self._connection, Message(value, data))
        return self._receive(SECONDS)

    def close(self) -> None:
        """End the process; nothing can be asked from then on."""
        if self._handler is None:
            self._dead = self._dead or LimitError("is closed")
            self._stop()

    def _receive(self, seconds: int) -> Message:
        try:
            if not self._connection.poll(seconds * PATIENCE):
                raise self._die(f"gives no answer in {seconds * PATIENCE} s")
            answer = _receive(self._connection)
        except (EOFError, ConnectionError):
            raise self._die(_why_dead(self._process, seconds)) from None
        except KeyboardInterrupt:
            # Its answer would be taken for that to the next question.
            self._die("was interrupted")
            raise
        if answer.value[0] == "answer":
            return Message(answer.value[1], answer.data)
        _, kind, text, trace = answer.value
        if kind == "MemoryError":
            raise self._die(_too_much_memory())
        raise ConfinedError(text, kind) from _ThereError(trace)

    def _die(self, reason: str) -> LimitError:
        self._dead = LimitError(reason)
        self._stop()
        return self._dead


def _send(connection: Connection, message: Message) -> None:
    connection.send_bytes(json.dumps(message.value, default=str).encode("ascii"))
    connection.send_bytes(message.data)


def _receive(connection: Connection) -> Message:
    value = json.loads(connection.recv_bytes())
    return Message(value, connection.recv_bytes())


def _answering(make: Callable[[], Handler]) -> Handler:
    """Return a handler of this process whose errors are those of one in a child."""

    def calling(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # other people's code raises whatever it likes
            raise ConfinedError(str(error), type(error).__name__) from error

    handler: Handler = calling(make)
    return lambda message: calling(lambda: handler(message))


def _end(process: int, connection: Connection, parent: int) -> None:
    """Kill a child that may have ended, and wait for it, or it would stay in the list."""
    connection.close()
    if os.getpid() != parent:  # another child, that has inherited this object
        return
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _why_dead(process: int, seconds: int) -> str:
    """Say why a child ended by itself."""
    number = 0
    with suppress(ChildProcessError):
        # Left to be waited for: nobody else has its number until then.
        status = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        number = 0 if status is None else status.si_status
    if number == signal.SIGXCPU:
        return f"takes more than {seconds} s of a processor"
    # The allocators of Rust and C++ abort, C reads what it did not get, Linux kills the largest.
    if number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL):
        return _too_much_memory()
    return f"ended the process it ran in (status {number})"


def _too_much_memory() -> str:
    return f"takes more than {MEMORY >> 30} GiB of memory, or crashes"


def _live(make: Callable[[], Handler], connection: Connection) -> NoReturn:
    """Be the child: answer until the parent is gone."""
    try:
        _prepare(connection)
        _serve(make, connection)
    finally:
        # Not what the parent registered to be done at its own end.
        os._exit(0)


def _prepare(connection: Connection) -> None:
    """Let go of what is the parent's, and set the limits."""
    import gc
    import resource

    # The parent is interrupted, too, and decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    # Locks on files, and pipes that would seem open as long as the child lives.
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number != connection.fileno():
            with suppress(OSError):  # that of the list itself
                os.close(number)
    # Objects of before are looked at no more, or their pages would be copied.
    gc.freeze()
    # One text at a time: threads would have stacks and arenas that count as memory.
    os.putenv("TOKENIZERS_PARALLELISM", "false")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    _lower(resource.RLIMIT_AS, size + MEMORY)


def _lower(kind: int, limit: int) -> None:
    """Set a limit, at most what it may be set to."""
    import resource

    most = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def _allow(seconds: int) -> None:
    """Let the kernel end this process after some more seconds of a processor."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


def _serve(make: Callable[[], Handler], connection: Connection) -> None:
    _allow(STARTING_SECONDS)
    handler: Handler | None = None
    request = Message()
    while True:
        try:
            if handler is None:
                handler, answer = make(), Message()
            else:
                answer = handler(request)
            message = Message(["answer", answer.value], answer.data)
        except BaseException as error:  # a panic of Rust is no Exception
            kind = "MemoryError" if isinstance(error, MemoryError) else type(error).__name__
            message = Message(["error", kind, str(error), traceback.format_exc()])
        try:
            _send(connection, message)
            if handler is None:
                return
            _allow(SECONDS)
            request = _receive(connection)
        except (EOFError, ConnectionError):
            return
