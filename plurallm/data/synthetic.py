"""A made-up survey with known values behind the answers, for when no data are at hand.

The phrases below lean on a few values and are more or less popular; groups hold those values to
different degrees, alike within a region. So the words of a question tell how it is answered:

    share of an option = softmax over options of (weight . disposition of the group + base + noise)

Dimension letters: ``G`` groups, ``Q`` questions, ``O`` options (padded to the longest list), ``R``
regions, ``K`` values, ``D`` parts of a disposition: the values, popularity (the same for all) and
the habits of agreeing, of choosing extreme options and of not knowing.
"""

from functools import cache
from itertools import combinations, product

import numpy as np
import numpy.typing as npt

from plurallm.data.survey import Answers, Question, Survey

_Array = npt.NDArray[np.float64]
_Phrase = tuple[str, str, _Array]  # topic, words, leanings

VALUES = ("tradition", "market", "openness", "trust", "ecology")

# Topic | an actor to trust or not | leanings; then phrase | its opposite | leanings of the phrase
# on VALUES and popularity, in tenths. The opposite leans the other way.
_PHRASES = """
# jobs and incomes | the central bank | 0 4 2 7 0 1
higher taxes on large incomes | lower taxes for high earners | -1 -8 0 1 2 3
free trade with other countries | tariffs that shield home industries | -2 5 7 2 0 0
private ownership of railways | public ownership of railways | 1 8 1 -1 -2 -3
generous pay for people out of work | strict limits on pay for people out of work | -1 -7 2 3 1 -1
# climate and nature | climate scientists | -4 -1 2 6 5 3
a tax on fuel that harms the climate | cheap fuel for every driver | -2 -2 2 3 8 -3
wind farms along the coast | coal mines and coal-fired power | -2 0 2 1 8 4
strict protection of forests and rivers | mining and logging in wild places | 1 -4 0 1 8 5
nuclear power stations | the end of nuclear power | 2 5 0 4 -6 0
# family life | family courts | 1 -1 0 7 0 0
marriage for couples of the same sex | marriage between man and woman only | -9 1 4 0 1 0
fathers at home with small children | mothers at home with small children | -8 0 2 1 1 0
large families with many children | small families with one child | 7 -1 -2 1 -4 -1
nurseries paid by the state | care of small children by relatives | -5 -5 1 4 1 3
# faith and religion | religious leaders | 8 0 -1 4 -1 -1
prayer in public schools | schools free of religion | 9 0 -2 0 -1 -2
laws that follow religious teaching | laws kept apart from religion | 9 -1 -4 0 -1 -4
houses of worship for newcomer faiths | limits on newcomer faiths | -2 0 8 2 0 0
# new technology | large technology companies | -2 7 2 3 -2 -2
artificial intelligence in offices | a ban on artificial intelligence at work | -4 6 3 3 -2 0
cameras that recognize faces in streets | streets without cameras | 4 1 -3 6 -1 1
gene editing that prevents illness | human genes left as nature made them | -6 3 2 4 -3 2
# relations with the world | international organizations | -2 -1 7 6 1 1
aid for poorer nations | aid money kept at home | -2 -3 7 3 2 -2
a larger army | a smaller army | 6 2 -4 4 -3 1
treaties that bind all nations | a foreign policy free of treaties | -2 0 7 4 3 3
# democracy and government | the national government | 2 0 -1 8 -1 -1
decisions by popular vote | decisions by elected experts | 2 0 -1 -7 1 3
a strong leader above parliament | a parliament that checks every leader | 7 1 -4 2 -2 -4
reserved seats for women in parliament | seats won without regard to sex | -7 -3 3 2 2 0
# migration and borders | border guards | 4 0 -4 6 -1 2
more visas for foreign workers | fewer visas for foreign workers | -2 4 8 2 0 -2
shelter for refugees from wars | borders closed to refugees | -3 -2 8 2 1 2
lessons in the languages of migrants | lessons in our own language only | -4 -1 8 1 1 -3
# health and care | doctors and hospitals | 0 0 0 7 0 5
free hospitals paid by taxes | hospitals paid by private insurance | 0 -8 1 3 1 5
compulsory vaccines for children | vaccines by free choice | -2 -2 1 8 -1 3
a right to end one's life when very ill | protection of life until its natural end | -8 2 1 1 1 2
# schools and learning | teachers and universities | -2 -2 2 6 1 4
free university for everyone | university fees paid by students | -2 -7 2 2 1 4
strict discipline in classrooms | classrooms where pupils decide | 8 2 -1 2 -1 2
private schools chosen by parents | one public school for all children | 2 7 0 -2 -1 -1
"""

# About what | shift of popularity | question | options from most to least, "?" if off the scale.
_FORMATS = """
phrase | 0 | do you support or oppose {0}? | Strongly support; Support; Oppose; Strongly oppose
phrase | .02 | do you agree with {0}? | Agree strongly; Agree; Neither; Disagree; Disagree strongly
phrase | .02 | do you approve of {0}? | Fully; Mostly; Partly; Hardly; Not at all; ?Don't know
phrase | 0 | would it be wise to aim for {0}? | A good idea; A bad idea; ?Don't know
phrase | .07 | how important would {0} be? | Very important; Important; Less important; Unimportant
phrase | -.02 | would you vote for a party that promises {0}? | Yes; No
phrase | -.07 | would you sign a petition for {0}? | Yes, certainly; Yes, perhaps; No, never
phrase | 0 | which is closer to your own view, {0} or {1}? | {0}; {1}
phrase | 0 | what should be chosen, {0}, {1} or a middle way? | {0}; A middle way; {1}; ?Cannot say
choice | 0 | which of these should come first, {0}, {1} or {2}? | {0}; {1}; {2}
choice | 0 | would you rather have {0}, {1}, {2} or none? | {0}; {1}; {2}; ?None of them
actor | 0 | how much do you trust {0}? | A great deal; A fair amount; Not much; Not at all
actor | 0 | do you have confidence in {0}? | Yes; No; ?Don't know
""".strip().splitlines()

# What may precede a question, and its shift of popularity.
_FRAMES = {
    "": 0.0,
    "when it comes to {topic}, ": 0.0,
    "in times of peace and plenty, ": 0.04,
    "thinking of the next twenty years, ": 0.07,
    "at a time when public money is short, ": -0.12,
}

# A name is onset, middles, ending. Each onset has one ending, and groups of one ending one region.
_ONSETS = ("Av", "Bel", "Cor", "Dal", "El", "Fen", "Gal", "Jor", "Kal", "Mer")
_MIDDLES = ("ar", "or", "en", "im", "ov", "al", "ul", "em", "is", "an")
_ENDINGS = ("ia", "a", "eth", "una", "os")
_STANCE, _POPULARITY = 1.1, 4.5  # how strongly values and popularity pull
_HABITS = (0.2, -0.8, -1.6), (0.2, 0.3, 0.4)  # mean and spread over groups
_WORDING_NOISE, _GROUP_NOISE = 0.3, 0.2  # on an option's appeal: to everyone; to one group


def generate_survey(
    num_groups: int = 14, num_questions: int = 400, respondents: int = 600, seed: int = 0
) -> Survey:
    """Make a survey of invented groups, each of which was asked 55 to 85 % of the questions.

    More groups leave the first ones and the questions as they are. Names of groups and ids of
    questions do not depend on the seed: a configuration can list them.

    Parameters
    ----------
    num_groups : int
        At least 2.
    num_questions : int
        From 1 to the 3,260 that can be made. Every question was asked of at least one group.
    respondents : int
        About how many people stand behind one answer (half more or fewer), at least 1.
    seed : int
        At least 0.

    Returns
    -------
    Survey
        Questions of 2 to 6 options; shares of finite samples.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> list(generate_survey(num_groups=3, num_questions=20).answers)
    ['Avaria', 'Belora', 'Coreneth']
    """
    ways = _ways()
    for name, number, low, high in (
        ("num_groups", num_groups, 2, np.inf),
        ("num_questions", num_questions, 1, len(ways)),
        ("respondents", respondents, 1, np.inf),
        ("seed", seed, 0, np.inf),
    ):
        if not low <= number <= high:
            raise ValueError(f"{name} must lie between {low} and {high}, not {number}")
    chosen = _generator(seed, "questions").permutation(len(ways))[:num_questions]
    questions, weights = zip(*(_ask(way, *ways[way]) for way in chosen), strict=True)
    num_options_Q = np.array([len(question.options) for question in questions])
    real_QO = np.arange(num_options_Q.max()) < num_options_Q[:, None]
    weight_QOD = np.zeros((*real_QO.shape, weights[0].shape[1]))
    weight_QOD[real_QO] = np.concatenate(weights)
    noise_QO = _generator(seed, "wording").normal(0, _WORDING_NOISE, real_QO.shape)
    base_QO = np.where(real_QO, noise_QO, -np.inf)  # nobody chooses padding
    answers: dict[str, Answers] = {}
    for group, value_K in enumerate(group_values(num_groups, seed)):
        rng = _generator(seed, "answers", group)
        rank_Q = rng.random(num_questions)
        if group == 1:  # asks first what the first group did not: no question is left out
            rank_Q[next(iter(answers.values())).question_Q] += 1
        question_Q = np.sort(np.argsort(rank_Q)[: round(rng.uniform(0.55, 0.85) * num_questions)])
        disposition_D = np.concatenate([_STANCE * value_K, [_POPULARITY], rng.normal(*_HABITS)])
        appeal_QO = weight_QOD[question_Q] @ disposition_D + base_QO[question_Q]
        share_QO = np.exp(appeal_QO + rng.normal(0, _GROUP_NOISE, appeal_QO.shape))
        share_QO /= share_QO.sum(axis=1, keepdims=True)
        people_Q = rng.integers((respondents + 1) // 2, 3 * respondents // 2 + 1, len(question_Q))
        # Reversed: rounding leaves a remainder to the last option, which must not be padding.
        count_QO = rng.multinomial(people_Q, share_QO[:, ::-1])[:, ::-1]
        answers[_name(group)] = Answers(
            question_Q, count_QO / people_Q[:, None], people_Q.astype(np.float64)
        )
    source = f"synthetic({num_groups=}, {num_questions=}, {respondents=}, {seed=})"
    return Survey(source, questions, answers)


def group_values(num_groups: int, seed: int = 0) -> _Array:
    """Give the values behind the answers of a survey.

    Parameters
    ----------
    num_groups, seed : int
        As for ``generate_survey``.

    Returns
    -------
    ndarray of shape (G, K), float64
        How far each group holds each of ``VALUES``: standard normal, correlated by one half
        between groups of a region.
    """
    value_GK = np.empty((num_groups, len(VALUES)))
    center_RK = _generator(seed, "regions").normal(size=(len(_ENDINGS), len(VALUES)))
    for group in range(num_groups):
        own_K = _generator(seed, "values", group).normal(size=len(VALUES))
        value_GK[group] = (center_RK[group % len(_ENDINGS)] + own_K) / np.sqrt(2)
    return value_GK


def _generator(seed: int, purpose: str, group: int = 0) -> np.random.Generator:
    return np.random.default_rng((seed, int.from_bytes(purpose.encode(), "big"), group))


def _name(group: int) -> str:
    rest, onset = divmod(group, len(_ONSETS))
    middles = ""
    while rest >= 0:  # as many as it takes: no name comes twice
        middles += _MIDDLES[(rest + onset) % len(_MIDDLES)]
        rest = rest // len(_MIDDLES) - 1
    return _ONSETS[onset] + middles + _ENDINGS[onset % len(_ENDINGS)]


@cache
def _ways() -> list[tuple[str, str, tuple[_Phrase, ...]]]:
    """List every frame and format with what they can ask about."""
    about: dict[str, list[tuple[_Phrase, ...]]] = {"phrase": [], "choice": [], "actor": []}
    for line in _PHRASES.strip().splitlines():
        *words, tenths = line.removeprefix("# ").split(" | ")
        leaning = np.array(tenths.split(), dtype=np.float64) / 10
        if line.startswith("#"):
            topic, phrases = words[0], list[_Phrase]()
            about["actor"].append(((topic, words[1], leaning),))
        else:
            phrase, opposite = (topic, words[0], leaning), (topic, words[1], -leaning)
            about["phrase"] += [(phrase, opposite), (opposite, phrase)]
            about["choice"] += [(*others, phrase) for others in combinations(phrases, 2)]
            phrases.append(phrase)
    return [way for form in _FORMATS for way in product(_FRAMES, [form], about[form.split()[0]])]


def _ask(way: int, frame: str, form: str, about: tuple[_Phrase, ...]) -> tuple[Question, _Array]:
    """Word a question and weigh its options, as weight_OD."""
    _, shift, ask, listed = form.split(" | ")
    topics, words, leanings = zip(*about, strict=True)
    marked = listed.format(*words).split("; ")
    off_O = np.array([option.startswith("?") for option in marked])
    scale_O = np.zeros(len(marked))
    if "{2}" in ask:  # every option speaks for its own phrase
        lean_OD = np.eye(len(marked), 3) @ np.array(leanings)
    else:
        scale_O[~off_O] = np.linspace(1, -1, np.sum(~off_O))
        lean_OD = np.outer(scale_O, leanings[0])
    agree_O = scale_O * ("{1}" not in ask)
    lean_OD[:, -1] += (float(shift) + _FRAMES[frame]) * agree_O
    text = (frame + ask).format(*words, topic=topics[0]).capitalize()
    options = tuple(option.removeprefix("?").capitalize() for option in marked)
    ordinal = tuple(range(len(marked), 0, -1)) if agree_O.any() and not off_O.any() else None
    weight_OD = np.column_stack([lean_OD, agree_O, scale_O**2, off_O])
    return Question(f"syn-{way + 1:04d}", text, options, ordinal), weight_OD
