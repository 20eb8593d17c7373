"""Writes the table of simple case folding: `python -m rft_jax.strings.case_folding_generator`.

The rule is that of CaseFolding.txt, statuses C and S (Unicode Standard, 3.13): one character folds
to one character, whatever the language. Python's `str.casefold` has the full folding (C and F):
where that is one character it is C; of the rest S are those with a lower case of one character
(U+1E9E and the Greek capitals with prosgegrammeni), and the others, like U+00DF, have none. The
dotted capital I (U+0130) folds to itself.
"""

import sys
import unicodedata

_HEADER = '''"""Simple case folding: C and S of CaseFolding.txt; from case_folding_generator."""

UNICODE_VERSION = "{version}"

# (first, last, step, delta): the code points first, first + step, ..., last fold to point + delta.
RANGES = (
'''


def simple_case_fold(character: str) -> str:
    """The simple case folding of one character, by this Python's Unicode data."""
    for folded in (character.casefold(), character.lower()):
        if len(folded) == 1:
            return folded
    return character


def ranges() -> list[tuple[int, int, int, int]]:
    """(first, last, step, delta), the step 1 or 2, of the characters that fold to others.

    Returns:
        In ascending order of the first; those of step 2 may interleave with others.
    """
    found: list[list[int]] = []
    for point in range(sys.maxunicode + 1):
        if 0xD800 <= point < 0xE000:
            continue
        delta = ord(simple_case_fold(chr(point))) - point
        if not delta:
            continue
        if found and found[-1][3] == delta:
            first, last, step, _ = found[-1]
            gap = point - last
            if gap in (1, 2) and (first == last or gap == step):
                found[-1] = [first, point, gap, delta]
                continue
        found.append([point, point, 1, delta])
    return [(first, last, step, delta) for first, last, step, delta in found]


def main() -> None:
    """Prints the module `case_folding_table`."""
    print(_HEADER.format(version=unicodedata.unidata_version), end="")
    for first, last, step, delta in ranges():
        print(f"    (0x{first:04X}, 0x{last:04X}, {step}, {delta}),")
    print(")")


if __name__ == "__main__":
    main()
