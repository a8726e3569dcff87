"""Worked solutions of arithmetic questions, in several plans and several ways to take a product or a sum.

A solution may carry one slip (a wrong value in a single step, after which the work goes on consistently).
Slips occur only in solutions that are shown as context, never in one that is a training target.
"""

import re
from dataclasses import dataclass

PLANS = (
    "Products first",
    "Last product first",
    "Left to right",
    "Constants first",
    "Difference of products",
    "From the end",
)


@dataclass(frozen=True)
class Solution:
    """A response text and what it claims."""

    text: str
    plan: int
    first: int
    second: int
    answer: int


def slipped(rng, value):
    """A wrong value of the kind that digit-by-digit work produces."""
    offsets = [1, -1, 2, -2, 10, -10, 20, -20]
    if abs(value) >= 100:
        offsets += [100, -100, 9, -9]
    return value + rng.choice(offsets)


class Work:
    """Writes the steps of one solution; `slip_at` numbers the step whose value goes wrong."""

    def __init__(self, rng, slip_at=None):
        self.rng = rng
        self.slip_at = slip_at
        self.count = 0
        self.steps = []

    def _value(self, value):
        if self.count == self.slip_at:
            value = slipped(self.rng, value)
        self.count += 1
        return value

    def product(self, x, y, direct=None):
        """x*y in one of several ways; `direct` in (0, 1) is the probability of stating the result at once."""
        ways = []
        if y > 10 and y % 10:
            ways += ["right"] * 2
        if x > 10 and x % 10:
            ways += ["left"] * 2
        if y > 6 and y % 10 >= 7 and x > 1:
            ways.append("up")
        if x > 2 and x % 2 == 0 and y > 2:
            ways.append("double")
        chance = 0.35 if direct is None else direct
        way = "direct" if not ways or self.rng.random() < chance else self.rng.choice(ways)
        if way == "direct":
            value = self._value(x * y)
            if direct is None and self.rng.random() < 0.3:
                x, y = y, x
            self.steps.append(f"{x}*{y}={value}")
            return value
        if way == "double":
            half = self._value(x // 2 * y)
            value = self._value(2 * half)
            self.steps.append(f"{x}*{y}={x // 2}*{y}*2={half}*2={value}")
            return value
        if way == "up":
            whole, rest, sign = (y // 10 + 1) * 10, 10 - y % 10, "-"
        elif way == "right":
            whole, rest, sign = y // 10 * 10, y % 10, "+"
        else:
            whole, rest, sign = x // 10 * 10, x % 10, "+"
        other = y if way == "left" else x
        p, q = self._value(other * whole), self._value(other * rest)
        value = self._value(p + q if sign == "+" else p - q)
        parts = f"{whole}*{y}+{rest}*{y}" if way == "left" else f"{x}*{whole}{sign}{x}*{rest}"
        self.steps.append(f"{x}*{y}={parts}={p}{sign}{q}={value}")
        return value

    def state(self, x, y, value):
        """x*y with a value that is taken over, not worked out."""
        self.steps.append(f"{x}*{y}={value}")
        return value

    def sum(self, x, y, final=None):
        """x+y (y may be negative), at once, leading part first, or by size where the result is negative; `final`
        overrides the result."""
        sign, size = ("-", -y) if y < 0 else ("+", y)
        unit = 100 if size >= 100 else 10
        head, rest = size // unit * unit, size % unit
        middle = ""
        if x + y < 0 and self.rng.random() < 0.5:
            large, small = max(abs(x), size), min(abs(x), size)
            middle = f"-({large}{'+' if x < 0 and y < 0 else '-'}{small})="
            value = self._value(x + y)
        elif size >= 10 and rest and self.rng.random() < 0.25:
            x_then = self._value(x - head if y < 0 else x + head)
            middle = f"{x_then}{sign}{rest}="
            value = self._value(x_then - rest if y < 0 else x_then + rest)
        else:
            value = self._value(x + y)
        value = value if final is None else final
        self.steps.append(f"{x}{sign}{size}={middle}{value}")
        return value


def solve(rng, q, plan=None, slip=False, first=None, second=None, final=None, direct=None):
    """A solution of question `q`. `first` and `second` are values taken over for b*c and e*f, `final` one for
    the answer. With `slip`, one random step goes wrong (the answer may still come out right)."""
    plan = rng.randrange(len(PLANS)) if plan is None else plan
    work = Work(rng, rng.randrange(7) if slip else None)

    def bc():
        return work.product(q.b, q.c, direct) if first is None else work.state(q.b, q.c, first)

    def ef():
        return work.product(q.e, q.f, direct) if second is None else work.state(q.e, q.f, second)

    if plan == 0:
        p, r = bc(), ef()
        answer = work.sum(work.sum(work.sum(q.a, p), q.d), -r, final)
    elif plan == 1:
        r, p = ef(), bc()
        answer = work.sum(work.sum(work.sum(q.a, p), q.d), -r, final)
    elif plan == 2:
        p = bc()
        total = work.sum(work.sum(q.a, p), q.d)
        r = ef()
        answer = work.sum(total, -r, final)
    elif plan == 3:
        constants = work.sum(q.a, q.d)
        p = bc()
        total = work.sum(constants, p)
        r = ef()
        answer = work.sum(total, -r, final)
    elif plan == 4:
        p, r = bc(), ef()
        difference = work.sum(p, -r)
        answer = work.sum(work.sum(q.a, q.d), difference, final)
    else:
        r = ef()
        tail = work.sum(q.d, -r)
        p = bc()
        answer = work.sum(work.sum(q.a, p), tail, final)
    text = f"{PLANS[plan]}: {', '.join(work.steps)}. The answer is {answer}."
    return Solution(text, plan, p, r, answer)


def parse(q, text):
    """The Solution that a sampled response makes of question `q`, or None if it lacks a part."""
    answer = re.search(r"The answer is (-?\d+)\.$", text)
    plan = next((i for i, name in enumerate(PLANS) if f"{name}: " in text), None)
    first, second = _claimed(q.b, q.c, text), _claimed(q.e, q.f, text)
    if answer is None or plan is None or first is None or second is None:
        return None
    return Solution(text, plan, first, second, int(answer.group(1)))


def _claimed(x, y, text):
    """The last value of the step of `text` that starts as x*y= or y*x=."""
    for step in re.split(r"[,.:] ", text):
        if step.startswith((f"{x}*{y}=", f"{y}*{x}=")):
            value = re.fullmatch(r"-?\d+", step.rsplit("=", 1)[1])
            return int(value.group()) if value else None
    return None
