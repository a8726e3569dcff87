"""Conversations of the pre-training text: first answers, summaries and debate turns.

A conversation is a list of (role, text, learn) where `learn` says whether the turn carries loss.

The rule of a debate turn, which does not know the right answer: list the claimed answers, own first. One that more
agents hold than any other, and at least two, is adopted (with that agent's products, the sums worked out again);
one time in eight, unless all agree, the question is checked afresh instead. Without such an answer the question is worked out
afresh under another plan, taking over only products on which at least two agents agree.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import jinja2

import questions
from solutions import PLANS, slipped, solve

PROMPTS = Path(__file__).resolve().parents[2] / "assets" / "prompts" / "arithmetic"
_environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
_templates = {path.stem: _environment.from_string(path.read_text()) for path in PROMPTS.glob("*.jinja")}


def prompt(name, **variables):
    """The user message of the named template."""
    return _templates[name].render(**variables)


def summarise(q, others):
    """The summary of other agents' solutions."""
    clauses = []
    for i, s in enumerate(others):
        who = "One solution has" if i == 0 else "Another has"
        clauses.append(f"{who} {q.b}*{q.c}={s.first}, {q.e}*{q.f}={s.second} and the answer {s.answer}.")
    return " ".join(clauses)


def agreed(values):
    """The value that at least two claim and more than any other, or None."""
    ranked = Counter(values).most_common(2)
    (value, count), rest = ranked[0], ranked[1:]
    return value if count >= 2 and (not rest or rest[0][1] < count) else None


def debate_answer(rng, q, own, others):
    """What the rule says after reading the others."""
    everyone = [own, *others]
    answers = [s.answer for s in everyone]
    top = agreed(answers)
    unanimous = len(set(answers)) == 1
    another = rng.choice([plan for plan in range(len(PLANS)) if plan != own.plan])
    if top is None:
        verdict = "No majority"
        s = solve(rng, q, another, first=agreed([s.first for s in everyone]),
                  second=agreed([s.second for s in everyone]), direct=0.15)
    elif not unanimous and rng.random() < 0.125:
        verdict = "Let me check"
        s = solve(rng, q, another, direct=0.15)
    else:
        verdict = "All agree" if unanimous else "Most agree"
        holder = own if own.answer == top else next(s for s in others if s.answer == top)
        s = solve(rng, q, holder.plan, first=holder.first, second=holder.second, final=top)
    listing = ", ".join(str(answer) for answer in answers)
    return replace(s, text=f"Answers {listing}. {verdict}. {s.text}")


def made_up(rng, q, count):
    """`count` solutions of q with slips; some questions mislead several agents to the same wrong product."""
    level = rng.random()
    trap = {}
    if rng.random() < 0.5:
        which, value = rng.choice([("first", q.b * q.c), ("second", q.e * q.f)])
        trap = {which: slipped(rng, value)}
    made = []
    for _ in range(count):
        if rng.random() < level:
            made.append(solve(rng, q))
        elif trap and rng.random() < 0.6:
            made.append(solve(rng, q, **trap))
        else:
            made.append(solve(rng, q, slip=True))
    return made


class Source:
    """Draws conversations. `sampled` holds (question, [Solution]) of an earlier checkpoint, once there is one; then
    most debates and summaries are about those."""

    def __init__(self, rng, operands, first=0.6):
        self.rng = rng
        self.operands = operands
        self.first = first
        self.sampled = []

    def question(self):
        return questions.draw(self.rng, self.rng.choice(self.operands), "pretrain")

    def group(self):
        """A question with the solutions of two to five agents."""
        count = self.rng.choices([2, 3, 4, 5], [15, 55, 15, 15])[0]
        if self.sampled and self.rng.random() < 0.75:
            q, solutions = self.rng.choice(self.sampled)
            if len(solutions) >= count:
                return q, self.rng.sample(solutions, count)
        q = self.question()
        return q, made_up(self.rng, q, count)

    def draw(self):
        """One conversation: first answers in the part `first` (93 % until there are sampled solutions), else summaries (30 %) or
        debates (70 %)."""
        first = self.first if self.sampled else 0.93
        if self.rng.random() < first:
            q = self.question()
            return [("user", prompt("first", question=q.text), False), ("assistant", solve(self.rng, q).text, True)]
        if self.rng.random() < 0.3:
            q, group = self.group()
            others = group[1:]
            if self.rng.random() < 0.08:
                others = [debate_answer(self.rng, q, s, [o for o in group if o is not s]) for s in others]
            request = prompt("summary", question=q.text, responses=[s.text for s in others])
            return [("user", request, False), ("assistant", summarise(q, others), True)]
        return self.debate()

    def debate(self):
        """A first answer (with loss only if it is right) and one debate turn, at times two or three."""
        rng = self.rng
        q, group = self.group()
        turns = [("user", prompt("first", question=q.text), False),
                 ("assistant", group[0].text, group[0].answer == q.answer and group[0].first == q.b * q.c
                  and group[0].second == q.e * q.f)]
        concatenated = rng.random() < 0.25
        for _ in range(rng.choices([1, 2, 3], [92, 6, 2])[0]):
            own, others = group[0], group[1:]
            if concatenated:
                request = prompt("debate-concat", question=q.text, responses=[s.text for s in others])
            else:
                request = prompt("debate", question=q.text, summary=summarise(q, others))
            group = [debate_answer(rng, q, s, group[:i] + group[i + 1:]) for i, s in enumerate(group)]
            turns += [("user", request, False), ("assistant", group[0].text, True)]
        return turns
