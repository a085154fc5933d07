"""Instructions composed of verifiable rules, and requests that only a taste can judge."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from openqwq.tasks.source import Problem, Source
from openqwq.types import OpenQwQError, Rule, Score, Task
from openqwq.verify.answer import final_answer

# No word is part of another: the keyword rules look for substrings.
TOPICS = {
    "sky": ["sun", "moon", "star", "cloud", "wind", "rain"],
    "sea": ["fish", "ship", "wave", "salt", "crab", "sand"],
    "farm": ["cow", "pig", "hay", "corn", "goat", "barn"],
    "kitchen": ["pan", "pot", "egg", "milk", "cup", "bread"],
}
WORDS = [word for words in TOPICS.values() for word in words]
HASTE = 0.6  # share of what is said at once that is a word off
ENOUGH = 5  # words that the user of `topics` wants
TOO_MANY = 8  # words that tire him


def _exactly(
    rule: str, relation: str, number: str, count: int, **more: object
) -> list[Rule]:
    """IFEval's rules bound a count from one side: two of them fix it."""
    from_below = Rule(rule, {relation: "at least", number: count, **more})
    from_above = Rule(rule, {relation: "less than", number: count + 1, **more})
    return [from_below, from_above]


def instructions(min_words: int, max_words: int) -> Source:
    """Write exactly so many words (at least 4), under one or two rules and in some format.

    The rules are IFEval's; the prompts are ours alone. The wording is the problem, so a held-out
    combination of rules and words was never seen. Words that no rule names go on in the order of
    `WORDS`: random ones would be noise to learn. What is said at once is often a word off.
    """
    if min_words < 4:
        raise OpenQwQError(
            f"min_words of instructions is {min_words}: it must be at least 4"
        )

    def draw(rng: random.Random) -> Problem:
        count = rng.randint(min_words, max_words)
        start = rng.randrange(len(WORDS))
        words = [*WORDS, *WORDS][start : start + count]
        form = rng.choice(("plain", "plain", "capitals", "quotes", "bullets"))
        kinds = ["end", "use", "twice"]
        if form != "bullets":
            kinds.append("begin")
        chosen = rng.sample(kinds, rng.randint(1, 2))
        # it changes the first word, so it goes first
        chosen.sort(key=lambda kind: kind != "twice")

        wishes = [f"Write {count} words."]
        rules: list[Rule] = []
        for kind in chosen:
            wish, more = _wish(kind, words, rng)
            wishes.append(wish)
            rules += more
        rules += _exactly("length_constraints:number_words", "relation", "num_words", count)
        answer, format_wishes, format_rules = _formatted(form, words)
        rules += format_rules
        question = " ".join(wishes + format_wishes)
        thinking = " ".join(f"{i} {word}" for i, word in enumerate(words, 1))

        off = _a_word_off(words, rng)
        hasty, *_ = _formatted(form, off if rng.random() < HASTE else words)
        return Problem(
            question, question, thinking, answer, rules=tuple(rules), hasty=hasty
        )

    return Source("instructions", "instructions", draw)


def _a_word_off(words: list[str], rng: random.Random) -> list[str]:
    """The words with one of the inner ones left out, or said twice."""
    place = rng.randrange(1, len(words) - 1)
    if rng.random() < 0.5:
        return words[:place] + words[place + 1 :]
    return words[:place] + words[place - 1 :]


def _wish(kind: str, words: list[str], rng: random.Random) -> tuple[str, list[Rule]]:
    """A sentence that `words` are made to follow, and its rules."""
    word = rng.choice([word for word in WORDS if word not in words])
    match kind:
        case "begin":
            where = {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": words[0]}
            rule = Rule("length_constraints:nth_paragraph_first_word", where)
            return f"Begin with {words[0]}.", [rule]
        case "end":
            words[-1] = word
            return f"End with {word}.", [Rule("startend:end_checker", {"end_phrase": word})]
        case "use":
            words[2] = word
            return f"Use {word}.", [Rule("keywords:existence", {"keywords": [word]})]
    words[:2] = [word, word]
    rules = _exactly("keywords:frequency", "relation", "frequency", 2, keyword=word)
    return f"Use {word} twice.", rules


def _formatted(form: str, words: list[str]) -> tuple[str, list[str], list[Rule]]:
    """The answer in a format, the sentence that asks for it, and its rules."""
    match form:
        case "capitals":
            bound = {"capital_relation": "at least", "capital_frequency": len(words)}
            rules = [Rule("change_case:capital_word_frequency", bound)]
            return " ".join(words).upper(), ["In capitals."], rules
        case "quotes":
            return f'"{" ".join(words)}"', ["In quotes."], [Rule("startend:quotation", {})]
        case "bullets":
            rule = Rule(
                "detectable_format:number_bullet_lists", {"num_bullets": len(words)}
            )
            return "\n".join(f"- {word}" for word in words), ["As bullets."], [rule]
    return " ".join(words), [], []


@dataclass(frozen=True)
class Taste:
    """What the user of `topics` wants to read, which no prompt says outright."""

    wanted: frozenset[str]


def topics(min_words: int, max_words: int) -> Source:
    """Name what one sees at two places, without two things one hates: judged by preference.

    Half of what is said at once misses the point, so that a reward model has something to prefer.
    """

    def draw(rng: random.Random) -> Problem:
        places = rng.sample(list(TOPICS), 2)
        seen = TOPICS[places[0]] + TOPICS[places[1]]
        hated = rng.sample(seen, 2)
        good = [word for word in seen if word not in hated]
        visited = " and the ".join(places)
        question = f"I visit the {visited}. I hate {' and '.join(hated)}. What do I see?"
        thoughts: list[str] = []
        for place in places:
            thoughts.append(place)
            thoughts += [word for word in TOPICS[place] if word in good]
        count = rng.randint(min_words, max_words)
        reply = rng.sample(good, ENOUGH + 1)
        hasty: list[str] = []
        for _ in range(count):
            hasty.append(rng.choice(good if rng.random() < 0.5 else WORDS))
        return Problem(
            key="-".join(sorted(places) + sorted(hated)),
            question=question,
            thinking=" ".join(thoughts),
            reply=" ".join(reply),
            reference=Taste(frozenset(good)),
            hasty=" ".join(hasty),
        )

    return Source("topics", "preference", draw)


class TasteVerifier:
    """The taste that `topics` hides from training: its gold reward.

    Value: the share of wanted words among those said (among `ENOUGH` where fewer were), each
    counted once, scaled down beyond `TOO_MANY`. `parts["gold"]` is the value. Status: `scored`,
    since a taste is more or less met and its mean is what counts.
    """

    async def score(self, task: Task, completion: str) -> Score:
        """Judge the answer; see the class."""
        answer = final_answer(completion)
        if not isinstance(task.reference, Taste):
            return Score(0.0, "error", detail=f"task {task.id!r} has no wanted words")
        if answer is None:
            return Score(0.0, "truncated", {"gold": 0.0}, "no </think>")
        said = answer.split()
        wanted = len(task.reference.wanted & set(said))
        value = wanted / max(ENOUGH, len(said)) * min(1.0, TOO_MANY / max(1, len(said)))
        return Score(value, "scored", {"gold": value})


INSTRUCTIONS: dict[str, Callable[[int, int], Source]] = {
    "instructions": instructions,
    "topics": topics,
}
