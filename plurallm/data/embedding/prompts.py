"""Prompts around a question and an answer, as language models were taught to read them.

Alpaca's and Llama-2's are those that GPO embeds (arXiv 2310.11523; its code release), character by
character: the instruction, and for Llama-2 the ``<s>`` that its tokenizer puts in front once more.
"""

from collections.abc import Callable
from typing import Any

from plurallm.data.embedding.pairs import Pair

INSTRUCTION = "Answer the following question by picking ONE of the given options"

_ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{question}\n\n### Response:\n"
)
_LLAMA2 = "<s>[INST] <<SYS>>\n{instruction}\n<</SYS>>\n{question} [/INST] "

# Some chat templates tell the model today's date, with which vectors would change every day: this
# stands in front of them, and hides the function that they ask.
_FIXED_DATE = "{%- macro strftime_now(format) -%}01 Jan 2024{%- endmacro -%}"


def prompt_text(pair: Pair, template: str, tokenizer: Any) -> str:
    """Put a question into a prompt, and an answer behind it.

    Parameters
    ----------
    pair : (str, str)
        Question and option.
    template : str
        ``none``, ``alpaca``, ``llama2``, or ``chat``: the tokenizer's own.
    tokenizer : PreTrainedTokenizer
        Used for ``chat`` alone.

    Returns
    -------
    str
        What the model reads, special tokens that the tokenizer adds itself left out.

    Raises
    ------
    ValueError
        For ``chat`` when the tokenizer has no chat template.
    """
    question, option = pair
    return _PROMPTS[template](question, tokenizer) + option


def _chat(question: str, tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        raise ValueError(
            f"embedding.template=chat: the tokenizer of {tokenizer.name_or_path} has no chat "
            "template; give embedding.template=none, alpaca or llama2"
        )
    message = {"role": "user", "content": f"{INSTRUCTION}\n\n{question}"}
    text: str = tokenizer.apply_chat_template(
        [message],
        chat_template=_FIXED_DATE + tokenizer.get_chat_template(),
        tokenize=False,
        add_generation_prompt=True,
    )
    return text


_PROMPTS: dict[str, Callable[[str, Any], str]] = {
    "none": lambda question, _: f"{question}\n",
    "alpaca": lambda question, _: _ALPACA.format(instruction=INSTRUCTION, question=question),
    "llama2": lambda question, _: _LLAMA2.format(instruction=INSTRUCTION, question=question),
    "chat": _chat,
}
