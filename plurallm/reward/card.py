"""The model card of a bundle."""

from copy import copy
from typing import TYPE_CHECKING, Any

from plurallm.evaluate.plurality import plurality_lines

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from plurallm.reward.model import PreferenceRewardModel

DISTANCES = {"jensen_shannon": "Jensen-Shannon (base 2)", "wasserstein": "Wasserstein"}

CELLS = {
    "train_groups.seen_questions": "training groups, seen questions",
    "train_groups.unseen_questions": "training groups, unseen questions",
    "held_out_groups.seen_questions": "unseen groups, seen questions",
    "held_out_groups.unseen_questions": "unseen groups, unseen questions",
}


def model_card(data: "ModelCardData", model: "PreferenceRewardModel") -> str:
    """Write the card of a reward model.

    Parameters
    ----------
    data : ModelCardData
        Its metadata block, to which the licence is added.
    model : PreferenceRewardModel
        What is described.

    Returns
    -------
    str
        Markdown with the metadata in front.
    """
    facts = model.provenance
    scores = "\n".join(_score_row(name, cell) for name, cell in facts.get("cells", {}).items())
    metadata = copy(data)
    metadata.license = facts.get("license")
    released = "\n".join(
        f"- {group}: {len(context)} answered questions" for group, context in model.contexts.items()
    )
    return _CARD.format(
        metadata=metadata.to_yaml(),
        license=facts.get("license") or "none was chosen",
        training=_TRAINING[facts.get("training", "federated")],
        data=facts.get("data", "not recorded"),
        strategy=facts.get("strategy", "not recorded"),
        privacy=_protection(facts),
        embedder=", ".join(f"{key} {value}" for key, value in vars(model.embedding).items()),
        width=model.embedding_width,
        weights=sum(weight.numel() for weight in model.parameters()),
        experts=_experts(model),
        released=released or "None: give a context with each call.",
        trained=", ".join(facts.get("train_groups", [])) or "not recorded",
        held_out=", ".join(facts.get("held_out_groups", [])) or "none",
        rounds=facts.get("round", "not recorded"),
        seed=facts.get("seed", "not recorded"),
        loss=facts.get("loss", "not recorded"),
        source=facts.get("weights", "not recorded"),
        distance=DISTANCES.get(facts.get("distance", ""), "Jensen-Shannon (base 2)"),
        scores=scores or "| not recorded | | |",
        plurality="\n".join(
            f"- {line}" for line in plurality_lines(facts.get("plurality", {}), CELLS)
        )
        or "Not recorded: in a deployment no place has the answers of two groups.",
        versions=", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items())
        or "not recorded",
    )


def _protection(facts: dict[str, Any]) -> str:
    if "privacy" not in facts:
        return "differential privacy not recorded"
    privacy = facts["privacy"]
    if privacy is None:
        return "no differential privacy"
    return (
        f"differential privacy of {privacy['protects']}, epsilon {privacy['epsilon']:.4g} at "
        f"delta {privacy['delta']:g}"
    )


def _experts(model: "PreferenceRewardModel") -> str:
    if not model.expert_groups:
        return ""
    return (
        "\n- Experts of these groups, mixed to fit a context: "
        f"{', '.join(model.expert_groups)}. An expert predicts its group's answers "
        "to the questions it was trained on nearly as they are: who has the bundle can read them."
    )


def _score_row(name: str, cell: dict[str, float]) -> str:
    return (
        f"| {CELLS.get(name, name)} | {cell['alignment']:.3f} | {cell['worst']:.3f} "
        f"| {cell['groups']} |"
    )


_TRAINING = {
    "federated": "learnt federated, so that training moves weights and no answers between groups",
    "central": "learnt in one place, from the answers of all training groups",
}

_CARD = """---
{metadata}
---

# A preference reward model

It predicts how a group of people answers a survey question, from about 20 questions that the group
has answered before, and so rewards what a language model writes: an option, a distribution over
the options, or a ranking. Trained with [PluralLLM](https://arxiv.org/abs/2503.09925)'s method: a
[GPO](https://arxiv.org/abs/2310.11523) transformer, {training}.
Answers that groups released into this bundle stand below.

```python
from plurallm.reward import PreferenceRewardModel

model = PreferenceRewardModel.from_pretrained("THIS FOLDER OR REPOSITORY")
context = model.read_context("answers.csv")  # of a new group: no training
model.predict("Is the economy doing well?", ["Yes", "No"], context)
```

## What is in it

- Weights: {weights:,} numbers in `model.safetensors`.{experts}
- Embedder of the texts: {embedder}; vectors of width {width}.
- Released contexts, which hold answers of the group in plain form:

{released}

Licence: {license}. The terms of the survey bind released answers too.

## Where it comes from

Weights: the {source} ones, after round {rounds}, loss `{loss}`, seed {seed}.
Data: `{data}`. Strategy: `{strategy}`, {privacy}.
Training groups: {trained}.
Unseen groups: {held_out}. Versions: {versions}.

## Scores

Alignment score: the mean over questions of 1 - {distance} distance between predicted and true
answers.

| groups and questions | alignment | worst group | groups |
|---|---|---|---|
{scores}

## Plurality

Whether predictions depend on the group: each is predicted from its own context, and from that of
another group.

{plurality}

## Limits

- It predicts shares of a question's options. A reward for free text (`raw_mean`) is outside what it
  was trained on.
- The uncertainty comes from cross-validation on the group's own context. On questions that no
  group was trained on, errors tend to be larger than it says.
- A predicted share is no statement about any person, and a high alignment score is no promise about
  a policy that is trained against it.
"""
