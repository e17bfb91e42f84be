"""The preference transformer of GPO (arXiv 2310.11523), computed without its square mask.

A token is the embedding of one (question, option) and its share; a target's share is zero. The
context attends to itself, targets attend to the context only, and there are no positions: so the
context is encoded once and targets are read out by cross-attention, in any number and order.

Dimension letters: ``B`` episodes, ``P`` points (context or target), ``D`` embedding width,
``W`` model width, ``H`` heads, ``E`` width of a head, ``Q`` questions, ``O`` options (padded).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plurallm.config.learning import ModelConfig
from plurallm.config.randomness import generator
from plurallm.learn.layers import Block, Linear, linear

Memory = list[tuple[Tensor, Tensor]]
"""Keys and values (B, H, P, E) of an encoded context, layer by layer."""


@dataclass(frozen=True)
class Prediction:
    """What the network says of target options.

    Attributes
    ----------
    mean_QO : Tensor of shape (..., Q, O)
        Unnormalised mean of each option, minus infinity where there is none.
    raw_scale_QO : Tensor of shape (..., Q, O)
        Logarithm of the scale, before any floor.
    """

    mean_QO: Tensor
    raw_scale_QO: Tensor

    @property
    def shares_QO(self) -> Tensor:
        """Predicted shares: they sum to 1 over a question's options."""
        return self.mean_QO.softmax(-1)

    @property
    def log_shares_QO(self) -> Tensor:
        """Logarithms of the predicted shares."""
        return self.mean_QO.log_softmax(-1)


class PreferenceTransformer(nn.Module):
    """Predicts how groups answer target questions from their answered context.

    Parameters
    ----------
    embedding_width : int
        ``D``.
    config : ModelConfig
        Sizes.
    seed : int
        Of the initial weights.

    Notes
    -----
    With embedding width 4096 and the default sizes it has 1,188,354 parameters. Weights and
    activations may be float32 or float64; the embeddings are cast to the weights' type.

    Called with the weights of ``B`` models, stacked ``[B, ...]`` (``torch.func.functional_call``),
    each gets the episode of its place.
    """

    def __init__(self, embedding_width: int, config: ModelConfig, seed: int) -> None:
        super().__init__()
        width = config.width
        with torch.random.fork_rng(devices=[]):
            # nn.Module draws initial weights from the global state only.
            torch.set_rng_state(generator(seed, "model").get_state())
            self.first = Linear(embedding_width + 1, width)
            layers: list[nn.Module] = []
            for _ in range(config.embedder_layers - 1):
                layers += [nn.ReLU(), Linear(width, width)]
            self.embedder = nn.Sequential(*layers)
            self.blocks = nn.ModuleList(
                Block(width, config.heads, config.feedforward) for _ in range(config.layers)
            )
            self.head = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, 2))

    def embed(self, x_RD: Tensor) -> Tensor:
        """Apply the first layer to embeddings alone, without shares.

        Parameters
        ----------
        x_RD : Tensor of shape (..., D)
            Embeddings.

        Returns
        -------
        Tensor of shape (..., W)
            What ``encode`` and ``target_tokens`` take. It does not depend on answers, so that one
            table serves all groups.
        """
        weight_WD = self.first.weight[..., :-1]
        return linear(x_RD.to(weight_WD.dtype), weight_WD, self.first.bias)

    def target_tokens(self, x_RW: Tensor) -> Tensor:
        """Make the tokens of targets, which have no share.

        Parameters
        ----------
        x_RW : Tensor of shape (..., W)
            Embedded points (``embed``).

        Returns
        -------
        Tensor of shape (..., W)
            What ``decode`` takes. These too serve all groups.
        """
        tokens_RW: Tensor = self.embedder(x_RW)
        return tokens_RW

    def forward(
        self,
        x_BPD: Tensor,
        share_BP: Tensor,
        contexts: int,
        start: int,
        mask_BP: Tensor | None = None,
    ) -> Tensor:
        """Predict targets in one pass over context and targets, as training does.

        It gives what ``encode`` and ``decode`` give, in half as many operations: context and
        targets go through each layer together.

        Parameters
        ----------
        x_BPD : Tensor of shape (B, P, D)
            Embeddings of the context's points, then of the targets'.
        share_BP : Tensor of shape (B, P)
            Shares of the context's points, 0 for the targets'.
        contexts : int
            Every context point is among the first so many.
        start : int
            Targets are from this point on.
        mask_BP : Tensor of shape (B, contexts), bool, optional
            Which of the first points are the context's; all by default.

        Returns
        -------
        Tensor of shape (B, P - start, 2)
            Mean and raw scale of each point from `start` on.
        """
        # One split: each slice by itself would cost a gradient as large as the whole weight.
        weight_WD, share_weight_W1 = torch.split(self.first.weight, [x_BPD.shape[-1], 1], -1)
        x_BPW = linear(x_BPD.to(weight_WD.dtype), weight_WD, self.first.bias)
        token_BPW = self.embedder(x_BPW + share_BP.unsqueeze(-1) * share_weight_W1.mT)
        mask = _attention_mask(mask_BP, token_BPW.dtype)
        for number, block in enumerate(self.blocks, start=1):
            assert isinstance(block, Block)
            key_value = block.keys_values(token_BPW[..., :contexts, :])
            if number == len(self.blocks):  # nothing reads the context's tokens after it
                token_BPW = token_BPW[..., start:, :]
            token_BPW = block(token_BPW, *key_value, mask)
        output: Tensor = self.head(token_BPW)
        return output

    def encode(self, x_BPW: Tensor, share_BP: Tensor, mask_BP: Tensor | None = None) -> Memory:
        """Encode a context.

        Parameters
        ----------
        x_BPW : Tensor of shape (B, P, W)
            Embedded points (``embed``).
        share_BP : Tensor of shape (B, P)
            Their shares, in [0, 1].
        mask_BP : Tensor of shape (B, P), bool, optional
            Which points exist; all by default.

        Returns
        -------
        Memory
            For ``decode``.
        """
        share_weight_W1 = self.first.weight[..., -1:]
        token_BPW = self.embedder(x_BPW + share_BP.unsqueeze(-1) * share_weight_W1.mT)
        mask = _attention_mask(mask_BP, token_BPW.dtype)
        memory: Memory = []
        for block in self.blocks:
            assert isinstance(block, Block)
            key_value = block.keys_values(token_BPW)
            memory.append(key_value)
            if len(memory) < len(self.blocks):  # nothing reads the tokens after the last one
                token_BPW = block(token_BPW, *key_value, mask)
        return memory

    def decode(self, token_BPW: Tensor, memory: Memory, mask_BP: Tensor | None = None) -> Tensor:
        """Predict targets.

        Parameters
        ----------
        token_BPW : Tensor of shape (B, P, W)
            Target points (``target_tokens``).
        memory : Memory
            The encoded context.
        mask_BP : Tensor, bool, optional
            The context's mask.

        Returns
        -------
        Tensor of shape (B, P, 2)
            Mean and raw scale of each point.
        """
        mask = _attention_mask(mask_BP, token_BPW.dtype)
        for block, (key, value) in zip(self.blocks, memory, strict=True):
            token_BPW = block(token_BPW, key, value, mask)
        output: Tensor = self.head(token_BPW)
        return output


def gather_questions(output_P2: Tensor, point_QO: Tensor, mask_QO: Tensor) -> Prediction:
    """Bring flat points back into questions and options.

    Parameters
    ----------
    output_P2 : Tensor of shape (..., P, 2)
        Mean and raw scale of each point.
    point_QO : Tensor of shape (..., Q, O), int64
        Position of each option among the points.
    mask_QO : Tensor of shape (..., Q, O), bool
        Which options exist.

    Returns
    -------
    Prediction
        With tensors of shape (..., Q, O).
    """
    # Its gradient needs no sorting, unlike that of indexing, and any order gives the same sums: a
    # point is one option's, and all that pads adds zeros.
    place = point_QO.flatten(-2).unsqueeze(-1).expand(*point_QO.shape[:-2], -1, 2)
    output_QO2 = output_P2.gather(-2, place).view(*point_QO.shape, 2)
    return Prediction(
        mean_QO=output_QO2[..., 0].masked_fill(~mask_QO, float("-inf")),
        raw_scale_QO=output_QO2[..., 1],
    )


def predict_episode(
    model: PreferenceTransformer,
    context_PW: Tensor,
    share_P: Tensor,
    target_token_PW: Tensor,
) -> Tensor:
    """Encode one context and predict its targets.

    Parameters
    ----------
    model : PreferenceTransformer
        The network.
    context_PW : Tensor of shape (P, W)
        Embedded points of the context (``PreferenceTransformer.embed``).
    share_P : Tensor of shape (P,)
        Shares of the context's points.
    target_token_PW : Tensor of shape (P, W)
        Tokens of the targets (``PreferenceTransformer.target_tokens``).

    Returns
    -------
    Tensor of shape (P, 2)
        Mean and raw scale of each target point.
    """
    memory = model.encode(context_PW.unsqueeze(0), share_P.unsqueeze(0))
    return model.decode(target_token_PW.unsqueeze(0), memory).squeeze(0)


def _attention_mask(mask_BP: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Make what is added to scores: of a Boolean mask every block would make it anew."""
    if mask_BP is None:
        return None
    added_BP = torch.zeros_like(mask_BP, dtype=dtype).masked_fill(~mask_BP, float("-inf"))
    return added_BP.unsqueeze(-2).unsqueeze(-2)
