"""Hosts of their own on one machine: network namespaces, joined by a bridge.

They share no network with the machine; each has its loopback and one address. Needs ``ip`` and the
right to make namespaces (root).
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

NETWORK = "10.213.77"


@dataclass(frozen=True)
class Host:
    """One of the hosts.

    Attributes
    ----------
    address : str
        Where the others find it.
    prefix : tuple of str
        What stands before a command that runs on it.
    """

    address: str
    prefix: tuple[str, ...]


@contextmanager
def separate_hosts(names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """Make a host for each name; all are gone at the end.

    Raises
    ------
    PermissionError
        Where the machine does not let namespaces be made.
    """
    if shutil.which("ip") is None:
        raise PermissionError("network namespaces need the command ip (package iproute2)")
    own = f"plm{os.getpid() % 100000}"
    spaces = [f"{own}-{number}" for number in range(len(names) + 1)]
    switch, *hosts = spaces
    try:
        for space in spaces:
            _ip("netns", "add", space)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, space in enumerate(hosts, start=1):
            inner, outer = f"{own}i{number}", f"{own}o{number}"
            _ip("link", "add", inner, "netns", space, "type", "veth", "peer", "name", outer)
            _ip("link", "set", outer, "netns", switch)
            _ip("-n", switch, "link", "set", outer, "master", "bridge", "up")
            _ip("-n", space, "addr", "add", f"{NETWORK}.{number}/24", "dev", inner)
            _ip("-n", space, "link", "set", inner, "up")
            _ip("-n", space, "link", "set", "lo", "up")
        yield {
            name: Host(f"{NETWORK}.{number}", ("ip", "netns", "exec", space))
            for number, (name, space) in enumerate(zip(names, hosts, strict=True), start=1)
        }
    finally:
        for space in spaces:
            with suppress(PermissionError):
                _ip("netns", "delete", space)


def _ip(*arguments: str) -> None:
    done = subprocess.run(("ip", *arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PermissionError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
