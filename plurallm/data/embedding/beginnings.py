"""Hidden states of texts that begin alike: what they share is computed once.

Dimension letters: ``T`` texts of a batch, ``B`` beginnings, ``L`` tokens, ``D`` embedding width.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def mean_states(model: Any, ids: Sequence[Sequence[int]], device: str) -> Tensor:
    """Mean of the hidden states of each text's tokens.

    What texts that follow each other share at their beginning is computed once, and the rest of
    each on its repeated keys and values: the options of a question differ in their last tokens
    only. It is as if each text stood alone.

    Parameters
    ----------
    model : PreTrainedModel
        Without its head.
    ids : sequence of sequences of int
        The texts' tokens, at least one each.
    device : str
        Where the model is.

    Returns
    -------
    Tensor of shape (T, D), float32
    """
    shared = _shared_beginnings(ids) if _keeps_all_keys(model) else []
    if len(shared) in (0, len(ids)) or not all(length for length, _ in shared):
        token_TL, mask_TL = _padded(ids, device)
        out = model(input_ids=token_TL, attention_mask=mask_TL, use_cache=False)
        return mean_over_tokens(out.last_hidden_state, mask_TL)
    begin_T = [number for number, (_, count) in enumerate(shared) for _ in range(count)]
    starts = [begin_T.index(number) for number in range(len(shared))]
    token_BL, mask_BL = _padded(
        [ids[start][:length] for start, (length, _) in zip(starts, shared, strict=True)], device
    )
    out = model(input_ids=token_BL, attention_mask=mask_BL, use_cache=True)
    place_T = torch.tensor(begin_T, device=device)
    sum_BD = _sum_over_tokens(out.last_hidden_state, mask_BL)
    keys = out.past_key_values
    keys.batch_select_indices(place_T)
    rest_TL, rest_mask_TL = _padded(
        [own[shared[begin][0] :] for own, begin in zip(ids, begin_T, strict=True)], device
    )
    length_T = mask_BL.sum(1)[place_T]
    rest = model(
        input_ids=rest_TL,
        attention_mask=torch.cat([mask_BL[place_T], rest_mask_TL], 1),
        position_ids=length_T[:, None] + torch.arange(rest_TL.shape[1], device=device),
        use_cache=True,
        **{_cache_name(model): keys},
    )
    sum_TD = sum_BD[place_T] + _sum_over_tokens(rest.last_hidden_state, rest_mask_TL)
    return sum_TD / (length_T + rest_mask_TL.sum(1))[:, None]


def _cache_name(model: Any) -> str:
    """What a model calls keys and values of earlier tokens: `cache` since transformers 5.24."""
    known = inspect.signature(model.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def _keeps_all_keys(model: Any) -> bool:
    """Whether keys and values of all tokens stay: not with a sliding window, nor without any."""
    if getattr(model, "_is_stateful", False):
        return False
    layers = getattr(model.config, "layer_types", None)
    if layers is not None:
        return set(layers) == {"full_attention"}
    return getattr(model.config, "sliding_window", None) is None


def _shared_beginnings(ids: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Lengths of beginnings, and how many texts in a row share each; half of a text at least."""
    found: list[tuple[int, int]] = []
    start = 0
    for number, own in enumerate(ids):
        if number == start:
            found.append((len(own) - 1, 1))
            continue
        length, count = found[-1]
        most = min(length, len(own) - 1)
        same = next((at for at in range(most) if own[at] != ids[start][at]), most)
        if 2 * same < len(own) or 2 * same < len(ids[start]):
            start = number
            found.append((len(own) - 1, 1))
        else:
            found[-1] = (same, count + 1)
    return found


def mean_over_tokens(state_TLD: Tensor, mask_TL: Tensor) -> Tensor:
    """Mean of the hidden states of each text's tokens.

    Parameters
    ----------
    state_TLD : Tensor of shape (T, L, D)
        Hidden states, in any precision.
    mask_TL : Tensor of shape (T, L)
        1 for a token, 0 for padding.

    Returns
    -------
    Tensor of shape (T, D), float32
        What a padded position holds does not matter.
    """
    return _sum_over_tokens(state_TLD, mask_TL) / mask_TL.sum(1, keepdim=True)


def _sum_over_tokens(state_TLD: Tensor, mask_TL: Tensor) -> Tensor:
    return state_TLD.float().masked_fill(mask_TL[..., None] == 0, 0).sum(1)


def _padded(ids: Sequence[Sequence[int]], device: str) -> tuple[Tensor, Tensor]:
    """Tokens and their mask, padded on the right: no token attends to what follows it."""
    token_TL = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
    mask_TL = torch.zeros_like(token_TL)
    for row, own in enumerate(ids):
        token_TL[row, : len(own)] = torch.tensor(own)
        mask_TL[row, : len(own)] = 1
    return token_TL.to(device), mask_TL.to(device)
