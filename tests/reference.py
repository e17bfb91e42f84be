"""The slow obvious versions that the fast code must agree with.

Dimension letters as in the modules they mirror.
"""

import ast
import csv
import gzip
import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from plurallm.config.learning import ModelConfig
from plurallm.config.randomness import generator
from plurallm.data.preferences import Preferences, split_context
from plurallm.learn.divergence import SQRT_LN2, jensen_shannon_distance
from plurallm.learn.mixing import FOLDS, PENALTY, PENALTY_DECADES
from plurallm.learn.transformer import PreferenceTransformer


class PlainTransformer(nn.Module):
    """GPO's network as published: one sequence of context and targets under a square mask.

    A token is the embedding with the share appended, zero for targets; every position attends to
    the context's positions only.
    """

    def __init__(self, embedding_width: int, config: ModelConfig) -> None:
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [nn.Linear(embedding_width + 1, width)]
        for _ in range(config.embedder_layers - 1):
            layers += [nn.ReLU(), nn.Linear(width, width)]
        self.embedder = nn.Sequential(*layers)
        layer = nn.TransformerEncoderLayer(
            width, config.heads, config.feedforward, dropout=0.0, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, context_x_PD: Tensor, context_y_P: Tensor, target_x_PD: Tensor) -> Tensor:
        """Mean and raw scale of each target point, of shape (P, 2)."""
        share_P = torch.cat([context_y_P, torch.zeros(len(target_x_PD), dtype=context_y_P.dtype)])
        token_PD = torch.cat([torch.cat([context_x_PD, target_x_PD]), share_P[:, None]], -1)
        mask_PP = torch.full((len(token_PD), len(token_PD)), -math.inf, dtype=token_PD.dtype)
        mask_PP[:, : len(context_x_PD)] = 0
        encoded_PW = self.encoder(self.embedder(token_PD)[None], mask=mask_PP)[0]
        return self.head(encoded_PW)[len(context_x_PD) :]

    def copy_weights(self, model: PreferenceTransformer) -> None:
        """Take the weights of the fast model."""
        for slow, fast in zip(self.embedder, [model.first, *model.embedder], strict=True):
            slow.load_state_dict(fast.state_dict())
        self.head.load_state_dict(model.head.state_dict())
        for layer, block in zip(self.encoder.layers, model.blocks, strict=True):
            query, rest = block.query, block.key_value
            pairs = {
                layer.self_attn.in_proj_weight: torch.cat([query.weight, rest.weight]),
                layer.self_attn.in_proj_bias: torch.cat([query.bias, rest.bias]),
                layer.self_attn.out_proj.weight: block.attended.weight,
                layer.self_attn.out_proj.bias: block.attended.bias,
                layer.linear1.weight: block.feedforward[0].weight,
                layer.linear1.bias: block.feedforward[0].bias,
                layer.linear2.weight: block.feedforward[2].weight,
                layer.linear2.bias: block.feedforward[2].bias,
                layer.norm1.weight: block.norm_attended.weight,
                layer.norm1.bias: block.norm_attended.bias,
                layer.norm2.weight: block.norm.weight,
                layer.norm2.bias: block.norm.bias,
            }
            with torch.no_grad():
                for slow, fast in pairs.items():
                    slow.copy_(fast)


def points(preferences: Preferences, table_RD: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and shares of all options, question by question, option by option."""
    x, y = [], []
    for question in range(len(preferences)):
        for option in range(preferences.mask_QO.shape[1]):
            if preferences.mask_QO[question, option]:
                x.append(table_RD[preferences.row_QO[question, option]])
                y.append(preferences.share_QO[question, option])
    return torch.stack(x), torch.stack(y)


def load_group(
    path: Path, vectors: Mapping[tuple[str, str], Tensor], group: str
) -> list[tuple[Tensor, Tensor]]:
    """One country's answers out of GlobalOpinionQA's file, row by row, each with its own vectors.

    The whole file is read for every group, as the published code does.
    """
    loaded = {}
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        for row in csv.DictReader(file):
            text = row["question"].strip()
            selections = ast.literal_eval(re.search(r"\{.*\}", row["selections"], re.DOTALL)[0])
            shares = selections.get(group, [])
            options = [
                str(int(option)) if isinstance(option, float) else str(option).strip()
                for option in ast.literal_eval(row["options"])
            ]
            if text and sum(shares) > 0 and (text, *options) not in loaded:
                x = [vectors[text, option].clone() for option in options]
                y = [share / sum(shares) for share in shares]
                loaded[text, *options] = torch.stack(x), torch.tensor(y)
    return list(loaded.values())


def evaluate_by_question(
    model: PlainTransformer, table_RD: Tensor, context: Preferences, target: Preferences
) -> float:
    """Mean base 2 Jensen-Shannon distance, the whole sequence run anew for every question."""
    dtype = next(model.parameters()).dtype
    context_x_PD, context_y_P = points(context, table_RD)
    distances = []
    for question in range(len(target)):
        one = target.take(torch.tensor([question]))
        x_OD, y_O = points(one, table_RD)
        with torch.no_grad():
            output = model(context_x_PD.to(dtype), context_y_P.to(dtype), x_OD.to(dtype))
        share_O = torch.softmax(output[:, 0].double(), 0)
        distances.append(jensen_shannon(y_O.double().numpy(), share_O.numpy()) / SQRT_LN2)
    return sum(distances) / len(distances)


def train_by_question(
    model: PlainTransformer,
    episodes: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], list[int]]],
    rates: list[float],
) -> list[float]:
    """Cross-entropy of each step, question by question, and a step of plain Adam.

    An episode has vectors and shares of its context and of its targets, and each target's number
    of options.
    """
    optimizer = torch.optim.Adam(model.parameters(), foreach=False, fused=False)
    losses = []
    for rate, ((context_x_PD, context_y_P), (x_PD, y_P), options) in zip(
        rates, episodes, strict=True
    ):
        output = model(context_x_PD, context_y_P, x_PD)[:, 0]
        questions = zip(output.split(options), y_P.split(options), strict=True)
        loss = sum(-(y_O * torch.log_softmax(mean_O, 0)).sum() for mean_O, y_O in questions)
        loss = loss / len(options)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def jensen_shannon(p_O: np.ndarray, q_O: np.ndarray) -> float:
    """Base e Jensen-Shannon distance, term by term."""
    total = 0.0
    for p, q in zip(p_O, q_O, strict=True):
        middle = (p + q) / 2
        total += 0.0 if p == 0 else p * math.log(p / middle)
        total += 0.0 if q == 0 else q * math.log(q / middle)
    return math.sqrt(max(total / 2, 0.0))


def wasserstein(p_O: np.ndarray, q_O: np.ndarray, position_O: np.ndarray) -> float:
    """Work of moving one heap of earth into the other, from the lowest place upwards."""
    surplus = {float(place): 0.0 for place in position_O}
    for p, q, place in zip(p_O, q_O, position_O, strict=True):
        surplus[float(place)] += p - q
    work, carried = 0.0, 0.0
    places = sorted(surplus)
    for here, there in itertools.pairwise(places):
        carried += surplus[here]
        work += abs(carried) * (there - here)
    return work


def weighted_mean(
    updates: Mapping[str, tuple[Mapping[str, np.ndarray], float]],
) -> dict[str, np.ndarray]:
    """FedAvg: sum over groups of weight times update, over the sum of weights."""
    total = sum(weight for _, weight in updates.values())
    names = next(iter(updates.values()))[0]
    return {
        name: sum(arrays[name] * (weight / total) for arrays, weight in updates.values())
        for name in names
    }


def plurality_by_pair(tasks, predict, config, column):
    """Plurality of at most four groups that share one predictor: a pair and a question at a time.

    Every pair is compared, and every question while there are at most a hundred.
    """
    contexts = [
        split_context(
            task.seen,
            config.evaluation.context_questions,
            generator(config.seed, "evaluation", task.name, 0),
        )[0]
        for task in tasks
    ]
    own, swapped, true, told, between, true_between, assigned = [], [], [], [], [], [], []

    def score(p, q):
        return jensen_shannon_distance(p.double(), q.double()).item()

    for one, other in itertools.combinations(range(len(tasks)), 2):
        sides = [getattr(tasks[place], column) for place in (one, other)]
        shown = {int(q) for place in (one, other) for q in contexts[place].question_Q}
        answered = [side.question_Q.tolist() for side in sides]
        for question in sorted((set(answered[0]) & set(answered[1])) - shown):
            asked = [
                side.take(torch.tensor([positions.index(question)]))
                for side, positions in zip(sides, answered, strict=True)
            ]
            told_2 = [predict(contexts[p], asked[0].without_shares())[0] for p in (one, other)]
            true_2 = [part.share_QO[0] for part in asked]
            own += [1 - score(true_2[side], told_2[side]) for side in (0, 1)]
            swapped += [1 - score(true_2[side], told_2[1 - side]) for side in (0, 1)]
            if max(abs(float(a) - float(b)) for a, b in zip(*true_2, strict=True)) >= 0.1:
                for side in (0, 1):
                    difference = own[side - 2] - swapped[side - 2]
                    assigned.append(0.5 if difference == 0 else float(difference > 0))
            between.append(score(*told_2))
            true_between.append(score(*true_2))
            true += (true_2[0].double() - true_2[1].double()).tolist()
            told += (told_2[0].double() - told_2[1].double()).tolist()
    products = [math.fsum(a * b for a, b in zip(true, told, strict=True))]
    products += [math.fsum(a * a for a in values) for values in (true, told)]
    return {
        "own": float(np.mean(own)),
        "swapped": float(np.mean(swapped)),
        "correlation": products[0] / math.sqrt(products[1] * products[2]),
        "slope": products[0] / products[1],
        "between": float(np.mean(between)),
        "true_between": float(np.mean(true_between)),
        "assigned": float(np.mean(assigned)),
    }


def mix_by_hand(members, context, target):
    """Experts' mixture, a question and a penalty at a time; members predict in float64."""
    questions, count = len(context), min(FOLDS, len(context))
    rows, errors, of_question = [], [], []
    for place in range(questions):
        shown = [other for other in range(questions) if other % count != place % count]
        one = context.take(torch.tensor([place]))
        told = [
            member(context.take(torch.tensor(shown)), one.without_shares())[0] for member in members
        ]
        for option in one.mask_QO[0].nonzero()[:, 0].tolist():
            values = [math.sqrt(expert[option]) for expert in told]
            mean = math.fsum(values) / len(values)
            rows.append([value - mean for value in values])
            errors.append(math.sqrt(one.share_QO[0, option]) - mean)
            of_question.append(place)
    design, error = np.array(rows), np.array(errors)

    def fit(kept, penalty):
        normal = design[kept].T @ design[kept] + penalty * np.eye(len(members))
        return np.linalg.solve(normal, design[kept].T @ error[kept])

    best = None
    for step in range(-6, 9):
        penalty = 10 ** (step / 4)
        squares = 0.0
        for place in range(questions):
            left = np.array(of_question) == place
            squares += float(((error[left] - design[left] @ fit(~left, penalty)) ** 2).sum())
        prior = (math.log10(penalty / PENALTY) / PENALTY_DECADES) ** 2 / 2
        cost = questions / 2 * math.log(squares) + prior
        best = min(best or (math.inf, 0.0), (cost, penalty))
    weights = fit(np.ones(len(error), dtype=bool), best[1])
    shares = torch.zeros(target.mask_QO.shape, dtype=torch.float64)
    for row in range(len(target)):
        one = target.take(torch.tensor([row])).without_shares()
        told = torch.stack([member(context, one)[0].double().sqrt() for member in members])
        options = one.mask_QO[0]
        mean = told.mean(0)
        roots = mean + torch.from_numpy(weights) @ (told - mean)
        shares[row, options] = roots[options].clamp(min=math.sqrt(1e-3)) ** 2
        shares[row] /= shares[row].sum()
    return shares


def respondent_shares(
    rows: list[dict[str, str]], group: str, question: str, codes: list[str], weight: str | None
) -> dict[str, list[float]]:
    """Shares of the codes in each group of persons, one person after the other."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        if row[question] not in codes:
            continue
        own = sums.setdefault(row[group], [0.0] * len(codes))
        own[codes.index(row[question])] += 1.0 if weight is None else float(row[weight])
    return {name: [value / math.fsum(own) for value in own] for name, own in sums.items()}
