"""Ditto (arXiv 2012.04221): beside the global model, each training group keeps one of its own.

A personal model never leaves its node. It lies there on disk, round by round, because a client
process may live for one message only and a resumed run must find the version of its checkpoint.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from safetensors.torch import load_file
from torch import Tensor

from plurallm.config.protection import DittoPersonal
from plurallm.config.schema import Config
from plurallm.data.tasks import GroupTask
from plurallm.learn.batched import train_groups
from plurallm.learn.proximal import Proximal
from plurallm.learn.transformer import PreferenceTransformer
from plurallm.record.checkpoint import save_arrays


class PersonalModels:
    """The personal models of one run on one node.

    Parameters
    ----------
    folder : Path
        Made when something is saved.
    checkpoint_every : int
        Rounds between two checkpoints of the run: versions that they may go on from are kept.
    """

    def __init__(self, folder: Path, checkpoint_every: int) -> None:
        self._folder = folder
        self._every = checkpoint_every

    def load(self, group: str, last_round: int) -> dict[str, Tensor] | None:
        """Read a group's weights as they were after a round.

        Parameters
        ----------
        group : str
            The group.
        last_round : int
            Later versions, of a run that was cut off, do not count.

        Returns
        -------
        dict of str to Tensor, or None
            On the CPU; None where the group had not trained by then.
        """
        number = max((n for n in self._rounds(group) if n <= last_round), default=None)
        return None if number is None else load_file(self._file(group, number))

    def save(self, group: str, round_number: int, weights: Mapping[str, Tensor]) -> None:
        """Write a group's weights after a round; versions that nothing can ask for are removed."""
        file = self._file(group, round_number)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(file, {name: tensor.cpu().numpy() for name, tensor in weights.items()})
        # The round to come, and the last two checkpoints, of which the newer may be damaged.
        newest = round_number - round_number % self._every
        asked = (round_number, newest, newest - self._every)
        rounds = self._rounds(group)
        kept = {max((n for n in rounds if n <= last), default=None) for last in asked}
        for number in rounds:
            if number not in kept:
                self._file(group, number).unlink(missing_ok=True)

    def _file(self, group: str, round_number: int) -> Path:
        # A quoted name can be longer than a file's may be: then a digest stands in its place.
        name = quote(group, safe=" ()")
        if len(name) > 200:
            name = hashlib.sha256(group.encode()).hexdigest()
        return self._folder / name / f"round-{round_number:06d}.safetensors"

    def _rounds(self, group: str) -> list[int]:
        files = self._file(group, 0).parent.glob("round-*.safetensors")
        return [int(re.sub(r"\D", "", file.stem)) for file in files]


def train_personal(
    models: PersonalModels,
    received: PreferenceTransformer,
    tasks: Sequence[GroupTask],
    table_RD: Tensor,
    config: Config,
    round_number: int,
    at_once: int | None = None,
) -> None:
    """Train the personal models of some groups for one round, pulled towards the received one.

    Parameters
    ----------
    models : PersonalModels
        Where they are read and written; a group without one starts from the received model.
    received : PreferenceTransformer
        The global model; it is changed and must be set anew afterwards.
    tasks : sequence of GroupTask
        The groups: several are trained in vectorised computations.
    table_RD : Tensor of shape (R, D)
        Embeddings, on the model's device.
    config : Config
        The run's configuration, with ``personal=ditto``.
    round_number : int
        From 1.
    at_once : int, optional
        Groups in one vectorised computation; all by default.
    """
    assert isinstance(config.personal, DittoPersonal)
    anchor = {name: value.detach().clone() for name, value in received.named_parameters()}
    proximal = Proximal(config.personal.mu, anchor)
    # On the host, as they are read: stacked, they go to a GPU all groups at once.
    received_host = {name: value.cpu() for name, value in anchor.items()}
    starts = [models.load(task.name, round_number - 1) or received_host for task in tasks]
    weights, _ = train_groups(
        received, tasks, table_RD, config, round_number, proximal, starts, at_once
    )
    weights = {name: tensor.cpu() for name, tensor in weights.items()}
    for row, task in enumerate(tasks):
        own = {name: tensor[row] for name, tensor in weights.items()}
        models.save(task.name, round_number, own)
