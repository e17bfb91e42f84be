"""What the SuperNode and SuperExec of a node say and do: what it means, and whether they hang."""

import sys
import time
from pathlib import Path

from plurallm.deploy.supervision import FirstSignal

GIVEN_UP_SECONDS = 66  # by then the server has given up the connection of a node that was killed
BEAT_SECONDS = 300  # SuperNode and SuperExec speak four times a second
PROBLEMS = {
    "[code: 2001]": "the server wants a key: this node was started without one",
    "[code: 2004]": (
        "the server does not let this key in: either the operator has not registered it, or an "
        "earlier connection of this node has not been given up yet, which takes up to a minute"
    ),
    "certificate has expired": "the server's certificate has expired: its operator must renew it",
    "certificate is not yet valid": (
        "the server's certificate is not good yet: is the clock of this machine right?"
    ),
    "certificate is not valid for": (
        "the server's certificate is not for the name in --superlink: ask the operator which names "
        "it is for"
    ),
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not signed by the --ca given here",
}
"""What Flower says, and what it means; the first one that a line holds counts."""


def explain(line: str) -> str | None:
    """What a line of Flower's means where it tells of a problem."""
    return next((text for mark, text in PROBLEMS.items() if mark in line), None)


class Watchdog:
    """Tells whether SuperNode and SuperExec work, by what they say and do.

    Parameters
    ----------
    home : Path
        Where two files are kept: ``online``, as old as the last moment at which the server had let
        the node in, and ``beat``, as old as SuperExec's last answer from the SuperNode.
    answer_seconds : float
        From a message that comes to its answer.

    Attributes
    ----------
    said : set of str
        What their lines mean, where they tell of a problem.
    began : float
        When they were started, in seconds since the epoch.
    """

    def __init__(self, home: Path, answer_seconds: float) -> None:
        self.beat = home / "beat"
        self.said: set[str] = set()
        self._online = home / "online"
        self._answer_seconds = answer_seconds
        self._asked: float | None = None
        self._let_in = False
        self._is_out_of_step = False
        self.began = time.time()

    def read(self, line: str) -> None:
        """Take a line of theirs."""
        if meaning := explain(line):
            self.said.add(meaning)
        if "SuperNode ID: " in line:
            self._let_in = True
        elif "Ignoring message" in line:
            # Its run was stopped meanwhile, but Flower has kept it: its client answers it all the
            # same, and the SuperNode then sends each answer when the next message has come.
            self._is_out_of_step = True
        elif "Receiving: " in line:
            self._asked = time.monotonic()
        elif "Sending: " in line or "Failed to receive" in line or "Ignoring" in line:
            self._asked = None

    def look(self) -> str | None:
        """Say what is wrong; None where nothing is."""
        if self._let_in:
            self._online.touch()
        since = max(self.began, self.beat.stat().st_mtime if self.beat.exists() else 0)
        if (silent := time.time() - since) > BEAT_SECONDS and self._let_in:
            return f"SuperNode or SuperExec hangs: no sign of life for {silent:.0f} s"
        if self._is_out_of_step:
            return "a run was stopped while a message came: later ones would be answered too late"
        asked = self._asked
        if asked is not None and time.monotonic() > asked + self._answer_seconds:
            return f"a message came {time.monotonic() - asked:.0f} s ago, but nothing was answered"
        return None

    def ended(self, status: int) -> None:
        """Note that the SuperNode has ended by itself, and taken its leave of the server."""
        if status >= 0:
            self._online.unlink(missing_ok=True)


def wait_until_given_up(online: Path, signals: FirstSignal) -> None:
    """After a node was killed, wait until the server has noticed.

    It would not let the node in before; and a node that was back before the server had noticed
    would be waited for, although it had lost the message that it was to answer.
    """
    age = time.time() - online.stat().st_mtime if online.exists() else GIVEN_UP_SECONDS
    if 0 <= age < GIVEN_UP_SECONDS:
        left = GIVEN_UP_SECONDS - age
        print(f"node: it was killed {age:.0f} s ago: the server gives it up in {left:.0f} s")
        sys.stdout.flush()
        signals.wait(left)
    online.unlink(missing_ok=True)
