"""Commands that run together until the first one ends or a signal comes, each kept alive."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from plurallm.deploy.processes import RunError, end_processes

SIGNAL_POLL_SECONDS = 0.1
RESTART_SECONDS = (2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # before a helper is started again
STEADY_SECONDS = 120.0  # a helper that ran so long starts again after the shortest pause
TRIES = 3  # of a helper that has never been steady
WATCH_SECONDS = 2.0  # between two looks at whether all of them are well


class FirstSignal:
    """The first of Ctrl-C, TERM and a closed terminal: noted, without interrupting anything.

    An exception out of a handler could come anywhere, also while processes are being ended, some of
    which it would leave behind. The next ones are ignored, also while Python itself ends: it would
    let them end it with another status.

    Attributes
    ----------
    number : int or None
        None until one has come.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        on_signals(self._note)

    def _note(self, number: int, _: Any) -> None:
        self.number = number
        on_signals(signal.SIG_IGN)

    def wait(self, seconds: float) -> None:
        """Wait until it comes, at most so long."""
        limit = time.monotonic() + seconds
        while self.number is None and (left := limit - time.monotonic()) > 0:
            time.sleep(min(SIGNAL_POLL_SECONDS, left))

    @property
    def exit_status(self) -> int:
        """Of a service that it has ended: 0 after TERM, else 128 + its number."""
        assert self.number is not None
        return 0 if self.number == signal.SIGTERM else 128 + self.number


def run_to_end(
    commands: Sequence[Sequence[str]],
    options: dict[str, Any],
    read_line: Callable[[str], None],
    signals: FirstSignal,
    *secrets: int,
    watch: Callable[[], str | None] = lambda: None,
) -> int:
    """Run commands together and show what they say; when the first ends, end all that was started.

    The others serve the first one: one of them that ends is started again, with growing pauses.

    Parameters
    ----------
    commands : sequence of sequence of str
        The commands.
    options : dict
        Of ``surroundings``.
    read_line : callable
        Gets every line of their output.
    signals : FirstSignal
        Ends them too.
    *secrets : int
        Descriptors that are inherited by the commands that name them.
    watch : callable
        Is asked every few seconds what is wrong with them; None: nothing.

    Returns
    -------
    int
        The first one's exit status.

    Raises
    ------
    RunError
        When one of the others does not come up, or something is wrong; all of it has ended then.
    """
    end_processes(options["env"]["FLWR_HOME"])  # left by one that was killed itself
    running = [_Kept(command, options, read_line, secrets) for command in commands]
    first, *others = running
    problem, looked = None, time.monotonic()
    while problem is None and first.process.poll() is None and signals.number is None:
        for other in others:
            problem = problem or other.start_again()
        if time.monotonic() > looked + WATCH_SECONDS:
            looked = time.monotonic()
            problem = problem or watch()
        time.sleep(SIGNAL_POLL_SECONDS)
    end_processes(options["env"]["FLWR_HOME"])
    for one in running:
        one.reader.join(timeout=5)
        one.process.wait()
    if problem is not None:
        raise RunError(problem)
    return first.process.returncode


class _Kept:
    """A process that is started, and again when it has ended, and the thread that shows its lines.

    Parameters
    ----------
    command, options, read_line, secrets
        Of ``run_to_end``.
    """

    def __init__(
        self,
        command: Sequence[str],
        options: dict[str, Any],
        read_line: Callable[[str], None],
        secrets: Sequence[int],
    ) -> None:
        self._command = command
        self._name = shlex.join(command[:3])
        self._read_line = read_line
        self._options = options | {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
            "errors": "replace",
            "start_new_session": True,
            # Only those that read it: the proxy, which strangers talk to, does not have it.
            "pass_fds": tuple(fd for fd in secrets if f"/proc/self/fd/{fd}" in command),
        }
        self._ended_soon = 0
        self._was_steady = False
        self._next: float | None = None  # when it is started again
        self._start()

    def start_again(self) -> str | None:
        """Start it again, when the pause after its end has passed; say why it never came up."""
        now = time.monotonic()
        if self._next is not None:
            if now >= self._next:
                self._start()
            return None
        if self.process.poll() is None:
            return None
        self.reader.join(timeout=5)  # so that there is one at a time
        steady = now > self._began + STEADY_SECONDS
        self._was_steady |= steady
        self._ended_soon = 1 if steady else self._ended_soon + 1
        if self._ended_soon >= TRIES and not self._was_steady:
            return f"{self._name} does not come up: {self._last or 'it says nothing'}"
        pause = RESTART_SECONDS[min(self._ended_soon, len(RESTART_SECONDS)) - 1]
        self._next = now + pause
        status = self.process.returncode
        print(
            f"{self._name} ended with status {status}: it is started again in {pause:g} s",
            flush=True,
        )
        return None

    def _start(self) -> None:
        self._next, self._began, self._last = None, time.monotonic(), ""
        self.process = subprocess.Popen(self._command, **self._options)
        self.reader = threading.Thread(target=self._show, args=(self.process,), daemon=True)
        self.reader.start()

    def _show(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                print(line, end="", flush=True)
                self._last = line.strip() or self._last
                self._read_line(line)


@contextmanager
def fresh_secret() -> Iterator[int]:
    """Give the descriptor of a new secret of 32 bytes that is on no disk and in no argument list.

    Processes that inherit it read it as ``/proc/self/fd/NUMBER``; it is gone with the last of them.
    """
    descriptor = os.memfd_create("secret")
    try:
        os.write(descriptor, os.urandom(32))
        yield descriptor
    finally:
        os.close(descriptor)


def on_signals(action: Callable[[int, Any], None] | signal.Handlers) -> None:
    """Set what Ctrl-C, TERM and a closed terminal do."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, action)


def exit_on_signals() -> None:
    """Let the first of those signals end this process with 128 + its number; ignore the next ones.

    They would cut short what is ended on the way out.
    """

    def leave(number: int, _: Any) -> None:
        on_signals(signal.SIG_IGN)
        sys.exit(128 + number)

    on_signals(leave)
