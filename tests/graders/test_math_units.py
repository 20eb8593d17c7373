r"""`math` with `"unit": "convert"`: the device converts as pint does."""

import random

import pytest

from rft_jax.graders import build_grader, grade_texts
from rft_jax.strings.answers import host_answer
from rft_jax.strings.units import plain_unit, units

PAIRS = 4000
GRADER = {
    "type": "math",
    "name": "m",
    "input": "{{sample.output_text}}",
    "reference": "{{item.r}}",
    "unit": "convert",
    "relative": 1e-6,
}
# To pint a measure of yarn, and what it reads as products, or as other units of that name.
NOT_PINTS = {"amps", "Nm", "J/mol*K"}
NO_BASE = {"angle", "celsius", "fahrenheit", "dollar", "radian"}


def measures(registry):
    """The spellings that pint knows too and that can stand behind a number, by dimension."""
    found = {}
    for spelling, unit in units().items():
        if spelling in NOT_PINTS or {base for base, _ in unit.dimension} & NO_BASE:
            continue
        read = host_answer(f"3 {spelling}")
        if read is None or plain_unit(read.elements[0].unit) != spelling:
            continue
        try:
            registry.Quantity(1, spelling)
        except Exception:  # whatever it raises for what it does not know
            continue
        found.setdefault(unit.dimension, []).append(spelling)
    return {dimension: spellings for dimension, spellings in found.items() if len(spellings) > 1}


@pytest.mark.oracle
def test_thousands_of_quantities_are_converted_as_pint_does():
    pint = pytest.importorskip("pint")
    registry = pint.UnitRegistry()
    of_dimension = measures(registry)
    print(f"{sum(map(len, of_dimension.values()))} of {len(units())} spellings")
    chance = random.Random(0)
    right, wrong, other, items = [], [], [], []
    while len(items) < PAIRS:
        dimension = chance.choice(list(of_dimension))
        ours, theirs = chance.choices(of_dimension[dimension], k=2)
        value = chance.randint(1, 9999) / chance.choice([1, 10, 100])
        found = registry.Quantity(value, theirs).to(ours).magnitude
        elsewhere = chance.choice([d for d in of_dimension if d != dimension])
        items.append({"r": f"{value} {theirs}"})
        right.append(rf"\boxed{{{found:.12g} \text{{ {ours}}}}}")
        wrong.append(rf"\boxed{{{1.001 * found:.12g} \text{{ {ours}}}}}")
        unit = chance.choice(of_dimension[elsewhere])
        other.append(rf"\boxed{{{found:.12g} \text{{ {unit}}}}}")
    grader = build_grader(GRADER, "device")
    wanted = (("right", right, 1), ("0.1 % off", wrong, 0), ("another kind", other, 0))
    failed = []
    for name, answers, score in wanted:
        grade = grade_texts(grader, answers, items)
        assert grade.valid.all() and not grade.details["m/undecided"].any()
        agree = grade.reward == score
        print(f"{name}: {agree.sum()} of {len(answers)} as pint, {len(of_dimension)} dimensions")
        failed += [(name, items[n]["r"], answers[n]) for n in range(len(answers)) if not agree[n]]
    assert not failed, failed[:20]
