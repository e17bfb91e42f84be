"""What an operator's folder says of the nodes: which groups a key may bring, and the audit file.

The server's environment names the folder, so that neither a run nor a node can choose another.
A key that Flower registers has one node id for as long as it is registered.
"""

import getpass
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from plurallm.data.identity import normal_form

FOLDER = "PLURALLM_OPERATOR"
"""Environment variable of the server and its runs: the operator's folder."""

GROUPS = "groups.json"
"""By node id: a list of the groups that its key may bring, or null for any."""

AUDIT = "audit.jsonl"
"""A line for whatever changes trust; only ever appended to."""

_LONGEST_TEXT = 1000  # characters, and entries of a list, in a line of the audit file: nodes
_LONGEST_LIST = 100  # have a hand in both

_write = threading.Lock()


class RegistrationError(RuntimeError):
    """Nobody can tell which groups a key may bring; the message says what to do."""


def check_registration() -> None:
    """Refuse to go on where no operator's server says which groups a key may bring.

    Raises
    ------
    RegistrationError
        When the environment names no folder, or the folder has no bindings that can be read.
    """
    if FOLDER not in os.environ:
        raise RegistrationError(
            f"{FOLDER} is not set, so nothing says which groups a node's key may bring: start the "
            "server with plurallm server, which sets it"
        )
    folder = Path(os.environ[FOLDER])
    if not (folder / GROUPS).is_file():
        raise RegistrationError(
            f"{folder / GROUPS} is missing, so no node may bring a group: register the nodes with "
            "plurallm server FOLDER register, or bind those that are registered"
        )
    _bindings(folder)


def bind(folder: Path, node: str, groups: Iterable[str] | None) -> None:
    """Write which groups a node's key may bring; None: any."""
    with _changing(folder) as own:
        own[node] = None if groups is None else sorted(set(groups))


def unbind(folder: Path, node: str) -> None:
    """Let a node's key bring nothing any more."""
    with _changing(folder) as own:
        own.pop(node, None)


def told_groups(folder: Path, node: str) -> str:
    """Which groups a node may bring, in words for a list."""
    own = _bindings(folder).get(node, [])
    return "any group" if own is None else ", ".join(own) or "no group"


def unbound(node_id: int, groups: Iterable[str]) -> str | None:
    """Why a node may not bring groups, or None.

    Parameters
    ----------
    node_id : int
        Of Flower, which has checked its key.
    groups : iterable of str
        That it brings.

    Returns
    -------
    str or None
        None where it may, and wherever no operator's server runs (simulation, one process).
    """
    if FOLDER not in os.environ:
        return None
    folder = Path(os.environ[FOLDER])
    own = _bindings(folder).get(str(node_id), [])
    known = set(map(normal_form, own or ()))
    other = sorted(name for name in groups if own is not None and normal_form(name) not in known)
    if not other:
        return None
    return (
        f"its key is not registered for group {other[0]!r}, but for "
        f"{told_groups(folder, str(node_id))} "
        f"(plurallm server FOLDER bind {node_id} GROUP changes it)"
    )


def audit(what: str, folder: Path | None = None, who: str | None = None, **facts: object) -> None:
    """Append a line to the audit file; without an operator's server there is none.

    Parameters
    ----------
    what : str
        What happened, such as ``"register"``.
    folder : Path, optional
        The operator's; by default that of the environment.
    who : str, optional
        The user of this process by default.
    **facts
        What else is to be known, as JSON can say it.
    """
    if folder is None:
        if FOLDER not in os.environ:
            return
        folder = Path(os.environ[FOLDER])
    time = datetime.now(UTC).isoformat(timespec="seconds")
    line: dict[str, object] = {"time": time, "who": who or getpass.getuser(), "what": what}
    line |= {name: _shortened(value) for name, value in facts.items()}
    data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
    with _write:  # one write, so that lines of several processes do not mix
        descriptor = os.open(folder / AUDIT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _changing(folder: Path) -> Iterator[dict[str, list[str] | None]]:
    """Give the bindings to be changed; another command that changes them waits."""
    with FileLock(folder / f"{GROUPS}.lock"):
        own = _bindings(folder)
        yield own
        part = folder / f"{GROUPS}.part"
        part.write_text(json.dumps(own, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(part, folder / GROUPS)


def _bindings(folder: Path) -> dict[str, list[str] | None]:
    file = folder / GROUPS
    if not file.exists():
        return {}
    try:
        own = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RegistrationError(f"{file} cannot be read: {error}") from error
    if not isinstance(own, dict) or not all(map(_is_binding, own.values())):
        raise RegistrationError(f"{file} must have a list of groups, or null, for each node")
    return own


def _is_binding(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and all(isinstance(group, str) for group in value)


def _shortened(value: object) -> object:
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"{value[:_LONGEST_TEXT]}..."
    if isinstance(value, list) and len(value) > _LONGEST_LIST:
        return [*value[:_LONGEST_LIST], f"... and {len(value) - _LONGEST_LIST} more"]
    return value
