"""Units are known by all their spellings, and are worth what pint says."""

import jax
import numpy as np
import pytest

from rft_jax.strings import from_host, to_host
from rft_jax.strings.answers import WORD_BYTES
from rft_jax.strings.units import find_units, parts_of_factor, plain_unit, unit_numbers, units

WRITTEN = {
    "\\text{ km/h}": "km/h",
    " m/s}^2": "m/s2",
    "^\\circ\\text{C}": "°C",
    "\\text{ square meters": "m2",
    " cm²": "cm2",
    " kg m^{-3}": "kg/m3",
    " miles per hour": "mi/h",
    " N·m": "N*m",
    "\\mathrm{\\mu m": "µm",
    " kWh": "kW*h",
    "\\,k\\Omega": "kΩ",
    " \\mathrm{M\u2126": "MΩ",
    " apples": "",
    "": "",
}


def test_units_are_found_as_on_the_host():
    texts = [*WRITTEN, *units()]
    found = jax.device_get(jax.jit(find_units)(from_host(texts, WORD_BYTES)))
    plain = [plain_unit(text) for text in texts]
    assert [text.decode() for text in to_host(found.plain)] == plain
    for n, text in enumerate(plain):
        unit = units().get(text)
        assert bool(found.known[n]) == (unit is not None)
        if unit:
            assert (found.unit[n], found.dimension[n]) == unit_numbers(unit)
            factors = found.integer[n], found.divisor[n], found.power[n]
            assert factors == parts_of_factor(unit.factor)


@pytest.mark.parametrize("text, same", WRITTEN.items())
def test_spellings_of_a_unit_are_one_unit(text, same):
    assert units().get(plain_unit(text)) == (units()[same] if same else None)


@pytest.mark.oracle
def test_units_are_worth_what_pint_says():
    pint = pytest.importorskip("pint")
    registry = pint.UnitRegistry()
    # To pint atto-miles per second, a measure of yarn, and a product, as it sees brackets.
    others = {"amps", "Nm", "J/mol*K"}
    compared = 0
    for spelling, unit in units().items():
        bases = {base for base, _ in unit.dimension}
        if spelling in others or bases & {"angle", "celsius", "fahrenheit", "dollar", "radian"}:
            continue
        try:
            theirs = registry.Quantity(1, spelling).to_base_units()
        except Exception:  # whatever it raises for what it does not know
            continue
        names = {"m": "meter", "kg": "kilogram", "s": "second", "A": "ampere", "K": "kelvin"}
        names |= {"mol": "mole"}
        ours = {names[base]: power for base, power in unit.dimension}
        assert dict(theirs.units._units) == ours, spelling
        assert theirs.magnitude == pytest.approx(float(unit.factor), rel=1e-12), spelling
        compared += 1
    print(f"{compared} of {len(units())} spellings compared")
    assert compared > len(units()) / 2


def test_factors_are_exact():
    factors = [unit.factor for unit in units().values()]
    for factor in factors:
        integer, divisor, power = parts_of_factor(factor)
        assert np.max([integer, divisor]) < 10**8
        assert factor * divisor == integer * type(factor)(10) ** power
