r"""`math` beside `math-verify` on generated answers: who is right, and what needs the host.

    python experiments/benchmarks/math_answers.py --count 5000 --no-sandbox

Every answer is made from a value in one of the spellings of its kind, so that it is known whether
it is right; half of them are wrong by their value. Printed are, for each kind: the answers, how
many `math` and math-verify judge right, on how many they agree, and how many of them the device
left to the host; for each kind of difference the count, an example, and how it was decided; and
the time of `math` and `number` on the same texts. Needs the extra `math`.
"""

import argparse
import collections
import random
import time
from collections.abc import Callable
from fractions import Fraction

from math_verify import parse, verify

from rft_jax.config import HostOptions
from rft_jax.graders import build_grader, grade_texts, load_grader

SPEC = {
    "type": "math",
    "name": "math",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
NUMBER = {**SPEC, "type": "number", "name": "number", "marker": "\\boxed{"}
# Why the two differ, by kind; `math` keeps to its rule.
DECIDED = {
    "separators": "12,34,567 and thin spaces are one number in `math`",
    "mixed numbers": "2 2/3 and 2½ are mixed numbers in `math`, not products",
    "percent": "where only one side has the sign, 50% is 0.5 and 50",
    "money": "a word of scale multiplies; brackets around money are a minus",
    "powers of ten": "·10³ in superscripts is an exponent",
    "full width": "full-width digits are digits",
    "units": "units are stripped, whatever they are",
    "tuples": "a tuple is not another one's order, and needs no brackets",
    "sets": "a list in no brackets is a set",
    "intervals": "(1, 2) is not [1, 2)",
    "words": "words are equal but for capitals",
    "choices": "(B), B. and \\text{B} are B",
    "half read": "the whole box has to be the answer",
}
Made = tuple[str, str, bool]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--no-sandbox", action="store_true")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kinds = list(KINDS)
    made = [
        (kind, *KINDS[kind](rng)) for n in range(options.count) for kind in [kinds[n % len(kinds)]]
    ]
    texts = [f"We find $\\boxed{{{answer}}}$." for _, answer, _, _ in made]
    items = [{"answer": reference} for _, _, reference, _ in made]

    host = HostOptions(workers=options.workers, sandbox=not options.no_sandbox)
    began = time.perf_counter()
    grade = grade_texts(
        build_grader(load_grader({**SPEC, "symbolic": "auto"}), "auto", host), texts, items
    )
    print(f"math with the host: {time.perf_counter() - began:.1f} s")
    ours = grade.reward > 0.5
    asked = grade.details["math/undecided"] > 0.5
    began = time.perf_counter()
    theirs = [oracle(reference, answer) for _, answer, reference, _ in made]
    print(f"math-verify alone: {time.perf_counter() - began:.1f} s")
    report(made, ours, theirs, asked)
    times(texts, items, made)


def oracle(reference: str, answer: str) -> bool:
    """What math-verify says."""
    return bool(verify(parse(f"${reference}$"), parse(f"$\\boxed{{{answer}}}$")))


def report(made, ours, theirs, asked) -> None:
    """Prints what was judged how."""
    rows = collections.defaultdict(collections.Counter)
    differences: dict[tuple[str, bool, bool], list[Made]] = collections.defaultdict(list)
    for (kind, answer, reference, right), our, their, host in zip(
        made, ours, theirs, asked, strict=True
    ):
        rows[kind].update(
            n=1,
            ours=int(our == right),
            theirs=int(their == right),
            agree=int(our == their),
            host=int(host),
        )
        if our != their:
            differences[kind, bool(our), right].append((answer, reference, right))
    rows["all"] = sum(rows.values(), collections.Counter())
    print(f"\n| kind | answers | math right | math-verify right | agree | host |\n|{'---|' * 6}")
    for kind, row in rows.items():
        cells = [row[key] for key in ("n", "ours", "theirs", "agree", "host")]
        print(f"| {kind} | {' | '.join(map(str, cells))} |")
    print("\nDifferences:")
    for (kind, our, right), cases in differences.items():
        answer, reference, _ = cases[0]
        who = "math" if our == right else "math-verify"
        print(
            f"  {len(cases):4d} {kind}: {answer!r} for {reference!r}: math {int(our)}, right is "
            f"{int(right)}, so {who}; {DECIDED.get(kind, '')}"
        )


def times(texts, items, made) -> None:
    """Prints the device's time for texts whose references are numbers."""
    usable = [n for n, (kind, _, _, _) in enumerate(made) if kind in NUMERIC]
    texts, items = [texts[n] for n in usable], [items[n] for n in usable]
    for spec in (SPEC, NUMBER):
        grader = build_grader(load_grader(spec))
        grade_texts(grader, texts, items)
        began = time.perf_counter()
        grade_texts(grader, texts, items)
        print(
            f"{spec['type']}: {1e6 * (time.perf_counter() - began) / len(texts):.0f} us an answer"
        )


def _number(rng: random.Random) -> tuple[Fraction, Fraction]:
    """A value, and one that is the same or another."""
    value = Fraction(rng.randint(-9999, 9999), rng.choice([1, 1, 10, 100, 4, 8]))
    return value, value if rng.random() < 0.5 else value + rng.choice([1, -1, 10])


def _decimal(value: Fraction) -> str:
    return f"{float(value):.6f}".rstrip("0").rstrip(".")


def decimals(rng: random.Random) -> Made:
    """Signs and decimal places."""
    value, other = _number(rng)
    form = rng.choice(["{}", "{}.0", "+{}", "{}.", "x = {}", "\\text{{{}}}", "\\$ {}"])
    text = _decimal(other)
    form = "{}" if "." in text or other < 0 else form
    return form.format(text), _decimal(value), value == other


def separators(rng: random.Random) -> Made:
    """Groups of digits."""
    value = rng.randint(1000, 99_999_999)
    other = value if rng.random() < 0.5 else value + rng.choice([1, 1000, -1])
    text = f"{other:,}"
    if rng.random() < 0.2 and other >= 100_000:
        head, tail = str(other)[:-3], str(other)[-3:]
        head = ",".join(reversed([head[max(0, k - 2) : k] for k in range(len(head), 0, -2)]))
        return f"{head},{tail}", str(value), value == other
    return (
        text.replace(",", rng.choice([",", "{,}", "\\,", "\u2009", "\\ "])),
        str(value),
        value == other,
    )


def fractions(rng: random.Random) -> Made:
    """All spellings of \\frac."""
    over, under = rng.randint(1, 9), rng.randint(2, 9)
    value = Fraction(over, under) * rng.choice([1, -1])
    other = value if rng.random() < 0.5 else value + Fraction(1, under)
    a, b = abs(other.numerator) * (k := rng.choice([1, 2, 3])), other.denominator * k
    forms = ["\\frac{%d}{%d}", "\\dfrac{%d}{%d}", "\\tfrac{%d}{%d}", "%d/%d"]
    forms += ["\\frac%d%d"] if a < 10 and b < 10 else []
    text = rng.choice(forms) % (a, b)
    text = f"-{text}" if other < 0 else text
    reference = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    return text, reference, value == other


def mixed(rng: random.Random) -> Made:
    """Mixed numbers."""
    whole, under = rng.randint(1, 20), rng.choice([2, 3, 4, 5, 8])
    value = whole + Fraction(rng.randint(1, under - 1), under)
    other = value if rng.random() < 0.5 else value + 1
    n, rest = divmod(other, 1)
    form = rng.choice(["%d\\frac{%d}{%d}", "%d \\frac{%d}{%d}", "%d %d/%d", "%d\\frac%d%d"])
    return (
        form % (n, rest.numerator, rest.denominator),
        f"\\frac{{{value.numerator}}}{{{value.denominator}}}",
        value == other,
    )


def percent(rng: random.Random) -> Made:
    """Percent against percent, and against a number."""
    value = Fraction(rng.randint(1, 999), rng.choice([1, 10]))
    other = value if rng.random() < 0.5 else value + 1
    text = _decimal(other) + rng.choice(["\\%", "%", " \\%", "\\text{ percent}"])
    reference = rng.choice([f"{_decimal(value)}\\%", _decimal(value), _decimal(value / 100)])
    return text, reference, value == other


def powers(rng: random.Random) -> Made:
    """Scientific notation."""
    mantissa, power = Fraction(rng.randint(11, 99), 10), rng.randint(-4, 6)
    other = power if rng.random() < 0.5 else power + 1
    form = rng.choice(["%s \\times 10^{%d}", "%s \\cdot 10^{%d}", "%s\\times10^{%d}", "%se%d"])
    reference = _decimal(mantissa * Fraction(10) ** power)
    return form % (_decimal(mantissa), other), reference, power == other


def money(rng: random.Random) -> Made:
    """Currencies, words of scale, brackets."""
    value = Fraction(rng.randint(100, 99_999), 100)
    other = value if rng.random() < 0.5 else value + 1
    text = _decimal(other)
    word, factor = rng.choice([("", 1), ("", 1), (" million", 10**6), (" billion", 10**9)])
    form, sign = rng.choice(
        [("\\${}{}", 1), ("{}{}", 1), ("-\\${}{}", -1), ("(\\${}{})", -1), ("€{}{}", 1)]
    )
    return form.format(text, word), _decimal(sign * factor * value), value == other


def full_width(rng: random.Random) -> Made:
    """Full-width digits."""
    value = rng.randint(1, 9999)
    other = value if rng.random() < 0.5 else value + 1
    return (
        str(other).translate({ord("0") + k: 0xFF10 + k for k in range(10)}),
        str(value),
        value == other,
    )


def units(rng: random.Random) -> Made:
    """Units behind a number."""
    value, other = _number(rng)
    unit = rng.choice(
        ["\\text{ cm}", "\\ \\mathrm{m/s^2}", "^\\circ", "\\text{ square units}", " \\text{ kg}"]
        + ["\\,\\text{hours}", "\\text{ dollars}", "\\text{ km/h}", "\\text{ m}^2"]
    )
    return _decimal(other) + unit, _decimal(value) + rng.choice(["", unit]), value == other


def tuples(rng: random.Random) -> Made:
    """Points, whose order matters."""
    a, b = rng.sample(range(-20, 20), 2)
    right = rng.random() < 0.5
    first, second = (a, b) if right else rng.choice([(b, a), (a, b + 1)])
    form = rng.choice(["({}, {})", "({},{})", "\\left({}, {}\\right)", "(x, y) = ({}, {})"])
    return form.format(first, second), f"({a}, {b})", right


def sets(rng: random.Random) -> Made:
    """Lists, whose order does not."""
    values = rng.sample(range(-20, 20), rng.randint(2, 4))
    others = rng.sample(values, len(values))
    right = rng.random() < 0.5
    others = (
        others if right else rng.choice([others[:-1], [*others, 99], [others[0] + 50, *others[1:]]])
    )
    text = ", ".join(map(str, others))
    if rng.random() < 0.4:
        text = f"\\{{{text}\\}}"
    elif rng.random() < 0.3:
        text = " \\text{ and } ".join(map(str, others))
    return text, ", ".join(map(str, values)), right


def intervals(rng: random.Random) -> Made:
    """Intervals with their brackets."""
    low = rng.randint(-9, 9)
    high = low + rng.randint(1, 9)
    left, right_bracket = rng.choice("(["), rng.choice(")]")
    low_text = "-\\infty" if left == "(" and rng.random() < 0.3 else str(low)
    right = rng.random() < 0.5
    reference = f"{left}{low_text}, {high}{right_bracket}"
    other = reference if right else reference[:-1] + {")": "]", "]": ")"}[right_bracket]
    other = rng.choice([other, other.replace(", ", ","), f"x \\in {other}"])
    return other, reference, right


def words(rng: random.Random) -> Made:
    """Words."""
    names = ["Tuesday", "none", "even", "odd", "yes", "no solution", "parabola", "Evelyn"]
    word = rng.choice(names)
    other = word if rng.random() < 0.5 else rng.choice([name for name in names if name != word])
    form = rng.choice(["\\text{{{}}}", "\\mathrm{{{}}}", "{}", "\\textbf{{{}}}"])
    return form.format(other), f"\\text{{{word}}}", word == other


def choices(rng: random.Random) -> Made:
    """Letters of multiple choice."""
    letter, other = rng.choice("ABCDE"), rng.choice("ABCDE")
    other = letter if rng.random() < 0.5 else other
    form = rng.choice(["{}", "({})", "\\text{{({})}}", "\\textbf{{{}}}", "{}.", "\\text{{{}}}"])
    return form.format(other), rng.choice([letter, f"\\text{{({letter})}}"]), letter == other


def half_read(rng: random.Random) -> Made:
    """The reference, and something besides."""
    value = rng.randint(2, 99)
    form = rng.choice(
        [
            "{}, {}",
            "{} < x < {}",
            "{}x + {}",
            "{} \\text{{ or }} {}",
            "{}\\sqrt{{{}}}",
            "{}^{{{}}}",
            "{} - {}",
        ]
    )
    return form.format(value, rng.randint(100, 199)), str(value), False


def symbolic(rng: random.Random) -> Made:
    """Roots, pi, algebra."""
    n, k = rng.randint(2, 9), rng.choice([2, 3, 5, 7])
    right = rng.random() < 0.5
    m = n if right else n + 1
    answer, reference = rng.choice(
        [
            (f"\\sqrt{{{m * m * k}}}", f"{n}\\sqrt{{{k}}}"),
            (f"\\frac{{{m}\\pi}}{{{k}}}", f"\\frac{{{n}}}{{{k}}}\\pi"),
            (f"\\frac{{\\sqrt{{{k}}}}}{{{m}}}", f"\\frac{{{k}}}{{{n}\\sqrt{{{k}}}}}"),
            (f"(x+{m})^2", f"x^2+{2 * n}x+{n * n}"),
            (f"{m}x+{k}", f"{k}+{n}x"),
            (f"{k}^{{{m}}}", str(k**n)),
            (f"{m}+{k}i", f"{k}i+{n}"),
        ]
    )
    return answer, reference, right


KINDS: dict[str, Callable[[random.Random], Made]] = {
    "decimals": decimals,
    "separators": separators,
    "fractions": fractions,
    "mixed numbers": mixed,
    "percent": percent,
    "powers of ten": powers,
    "money": money,
    "full width": full_width,
    "units": units,
    "tuples": tuples,
    "sets": sets,
    "intervals": intervals,
    "words": words,
    "choices": choices,
    "half read": half_read,
    "symbolic": symbolic,
}
NUMERIC = (
    "decimals",
    "separators",
    "fractions",
    "mixed numbers",
    "percent",
    "powers of ten",
    "money",
)


if __name__ == "__main__":
    main()
