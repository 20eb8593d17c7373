r"""What a number is and what an answer is, as regular expressions that host and device share.

`TEXT_TOKEN` takes running text apart into numbers and what lies between them, `ANSWER_TOKEN` a text
that should be one answer: numbers with their units, words, separators and brackets, and what has no
place in an answer. One or the other always matches, so that Python's `finditer` on the host and
`strings.regex` on the device find the same tokens. Every part that counts stands in a named group:
what comes before the last underscore of its name is its kind, one of `KINDS`.

A number is one of

- an integer with or without a separator between groups of three (`,` `{,}` `\,` `'` or a blank) or
  written as 12,34,567, with a decimal part and an exponent (`1e5`, `\times 10^{5}`, `·10⁵`); or a
  power of ten alone;
- a fraction 3/4, \frac{3}{4}, \frac34 or ¾, whose denominator has up to eight digits and is not
  zero; perhaps with an integer in front: `2 2/3`, `2\frac{2}{3}`, `2½`.

In front may stand a sign, but not where something is subtracted, and a currency; around it
brackets; behind it a word of scale such as million, or percent. Digits that belong to a word, an
index or an exponent are no numbers, nor are the later parts of 1.2.3.
"""

import itertools

_DIGIT = "[0-9０-９]"
_NOT_ZERO = "[1-9１-９]"
_SUPERSCRIPT = "[⁰¹²³⁴⁵⁶⁷⁸⁹]"
_BLANK = r"(?:[ ~\u00a0\u2009\u200a\u202f]|\\[ ,;:!])"
_S = _BLANK + "*"
_OPEN, _CLOSE = r"\(", r"\)"
_INFINITY = r"\\infty\b|∞|\binfinity\b"
_DASH = "[-\u2212\u2013\ufe63\uff0d]"
VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5),
    "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8),
    "⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9), "⅒": (1, 10),
}  # fmt: skip
# The power of ten that a word of each kind multiplies by; the letters of `MONEY` only do where
# there is a currency, as an m may be meters.
SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
MONEY = {"kilomoney": 3, "megamoney": 6, "gigamoney": 9, "teramoney": 12}
_SCALE_WORDS = {
    "thousand": r"(?i:thousand)\b",
    "million": r"(?:(?i:millions?|mio|mln)|[mM]n)\b",  # mN and MN are newtons
    "billion": r"(?i:billions?|bn|bln)\b",
    "trillion": r"(?i:trillions?|trn)\b",
    "kilomoney": r"[kK]\b",
    "megamoney": r"[mM]\b",
    "gigamoney": r"[bB]\b",
    "teramoney": r"[tT]\b",
}
# Those of which a number consists; the others are of `ANSWER_TOKEN`.
NUMBER_KINDS = (
    *("number", "minus", "currency", "opens", "closes", "whole", "places", "over", "overplaces"),
    *("under", "underplaces", "vulgar", "ten", "powerminus", "power", "percent"),
    *(*SCALES, *MONEY, "unit"),
)
KINDS = ("", *NUMBER_KINDS, "separator", "left", "right", "word", "infinity", "equals", "other")
_count = itertools.count()


def kind_of(group: str) -> str:
    """The kind of a named group."""
    return group.rpartition("_")[0]


def _is(kind: str, pattern: str) -> str:
    """The pattern as a group of a kind; `re` wants every name to be another."""
    return f"(?P<{kind}_{next(_count)}>{pattern})"


_COMMA = r"(?:,|\{,\}|\\,)"
_GROUPED = "|".join(
    [rf"{_DIGIT}{{1,2}}(?:{_COMMA}{_DIGIT}{{2}})+{_COMMA}{_DIGIT}{{3}}"]
    + [
        rf"{_NOT_ZERO}{_DIGIT}{{0,2}}(?:{separator}{_DIGIT}{{3}})+"
        for separator in (_COMMA, "['’]", r"(?:[ ~\u00a0\u2009\u202f]|\\[ ;:])")
    ]
)
_INTEGER = f"(?:{_GROUPED}|{_DIGIT}+)"
_CURRENCY = (
    r"(?:(?:US|A|C|HK|NZ|S)?\\?\$|[€£¥₹₩]|\\(?:pounds|euro|yen)\b"
    r"|(?:USD|EUR|GBP|JPY|CNY|INR|CHF|CAD|AUD|NZD|HKD|SGD|SEK|NOK|DKK|Rs\.?))"
)
_TIMES = r"(?:\\times|×|·|⋅|\\cdot|\*|x)"
_COMMAND = r"\\(?:(?:text|math)(?:rm|bf|it)?|mbox|rm)"


_VULGAR = f"[{''.join(VULGAR)}]"


def _power() -> str:
    """A power of ten."""

    def signed() -> str:
        minus = _is("powerminus", _DASH)
        return rf"(?:{minus}|\+)?{_S}{_is('power', f'{_DIGIT}+')}"

    exponent = rf"(?:\{{{_S}{signed()}{_S}\}}|\({_S}{signed()}{_S}\)|{signed()})"
    above = f"(?:{_is('powerminus', '⁻')})?{_is('power', f'{_SUPERSCRIPT}+')}"
    return rf"{_is('ten', '10')}(?:{_S}(?:\^|\*\*){_S}{exponent}|{above})"


def _fraction() -> str:
    r"""\frac with its arguments."""
    over = rf"{_is('over', _INTEGER)}(?:\.{_is('overplaces', f'{_DIGIT}+')})?"
    under = rf"{_is('under', f'{_DIGIT}+')}(?:\.{_is('underplaces', f'{_DIGIT}+')})?"
    over_or_digit, under_or_digit = (
        rf"(?:\{{{_S}(?:{_is('minus', _DASH)}|\+)?{_S}(?:{inner}){_S}\}}|{_is(kind, digit)})"
        for kind, digit, inner in (
            ("over", _DIGIT, over),
            ("under", _DIGIT, under),
        )
    )
    return rf"\\[dtc]?frac{_S}{over_or_digit}{_S}{under_or_digit}"


def _magnitude(blank: str) -> str:
    """All of a number but its sign and what stands around it; `blank` may stand around a slash."""

    def slashed(digits: str) -> str:
        return f"{_is('over', digits)}{blank}/{blank}{_is('under', digits)}"

    integer = f"{_DIGIT}+"
    places = rf"(?:\.{_is('places', f'{_DIGIT}+')})?"
    decimal = rf"(?:{_is('whole', _INTEGER)}{places}|\.{_is('places', f'{_DIGIT}+')})"
    exponent = rf"[eE](?:{_is('powerminus', _DASH)}|\+)?{_is('power', f'{_DIGIT}+')}"
    return "|".join(
        [
            _power(),
            f"(?:{_is('whole', integer)}{_S})?{_fraction()}",
            f"(?:{_is('whole', integer)}{_BLANK}?)?{_is('vulgar', _VULGAR)}",
            f"{_is('whole', integer)}{_BLANK}{slashed(integer)}",
            slashed(integer),
            f"{decimal}(?:{exponent}|{_S}{_TIMES}{_S}{_power()})?",
        ]
    )


_UNIT_WORD = (
    r"(?:[kMGmcdnuµμ](?:[Ω\u2126]|\\Omega\b)"
    "|[B-Zb-np-z][A-Za-z]+|[aA](?:[a-mo-z]|n[a-ce-z])[a-z]*|o(?:[a-qs-z]|r[a-z])[a-z]*"
    r"|[µμ°Ω\u2126][A-Za-z]*|℃|℉|\\(?:circ|degree|Omega|mu|AA)\b ?[A-Za-z]*)"
)
_UNIT_POWER = r"(?:\}?\^?\{?-?[1-4]\b|[²³]|⁻[¹²³])?"
_ATOM = rf"(?:{_UNIT_WORD}|[mgsNJWVAKCFTLlhHMΩ\u2126]){_UNIT_POWER}"
_PRODUCT = r"(?:/|·|⋅|\*|\\cdot\b)"
# What a letter of money goes on with if it is a unit: 5 m/s, 5 m^2.
_CONTINUED = rf"(?:\}}?\^\{{?-?[1-4]\b|[²³]|[ }}]*{_PRODUCT}{_S}{_ATOM})"


def _number(blank: str, unit: str) -> str:
    """A number; `blank` may stand behind its sign, and `unit` behind all of it."""
    sign = rf"(?:(?:{_is('minus', _DASH)}|[+\uff0b]){blank})?"
    opens = rf"(?:{_is('opens', _OPEN)}{blank})?"
    currency = f"(?:{_is('currency', _CURRENCY)}{_S})?"
    inner = rf"(?:{_is('minus', _DASH)}|{_is('opens', _OPEN)})?"
    letters = f"{_is('thousand', 'k')}|{_is('million', 'M')}"
    words = "|".join(
        _is(kind, pattern) + (f"(?:{_is('unit', _CONTINUED)})?" if unit and kind in MONEY else "")
        for kind, pattern in _SCALE_WORDS.items()
    )
    percent = _is("percent", r"\\?[%％]|(?i:per ?cent|pct)\b")
    tail = rf"(?:(?:{letters})\b|{_S}(?:{_COMMAND}\{{ ?)?(?:{words}|{percent})(?: ?\}})?)?"
    closes = rf"(?:{blank}{_is('closes', _CLOSE)})?"
    return _is(
        "number", f"{sign}{opens}{currency}{inner}(?:{_magnitude(blank)}){tail}{closes}{unit}"
    )


def _text_token() -> str:
    word = "[A-Za-z](?:_?[A-Za-z0-9])*"
    # What keeps a sign or a point behind it from being one of a number.
    joins = rf"{word}(?:{_DASH}|\.)?|[)\]}}%]{_DASH}|\.\.+"
    index = rf"[{{(]?{_DASH}?[0-9A-Za-z]+"
    script = rf"[\^_]{index}"
    unread = r"\\(?:sqrt|[dtc]?frac)\{?[0-9A-Za-z]+(?:\}\{[0-9A-Za-z]+)?"
    after = rf"(?:{joins}|(?:\.{_DIGIT}+)+|{_DASH}|\^ ?\{{? ?\\circ|[^0-9０-９^⁰¹²³⁴-⁹½¼¾⅐-⅞]|\Z)"
    base = rf"(?:{_DIGIT}|[02-9]{_DIGIT}|1{_NOT_ZERO}|{_DIGIT}[0-9０-９.,]+{_DIGIT})"
    power = rf"{base}{_S}(?:(?:\^|\*\*){_S}{index}|{_SUPERSCRIPT}+)"
    dates = [_is("number", _is("whole", f"{_DIGIT}+")) for _ in range(3)]
    tokens = [
        power,
        f"{'/'.join(dates)}{after}",
        f"{_number('', '')}{after}",
        unread,
        joins,
        script,
        "(?s:.)",
    ]
    return "|".join(tokens)


_LETTER = r"[^\W\d_]"
_OPENED = rf"(?:{_COMMAND}[ ~]*\{{)"


def _word() -> str:
    in_command = _is("word", rf"{_LETTER}+(?:[ -]{_LETTER}+)*")
    index = r"_(?:\{[A-Za-z0-9]+\}|[A-Za-z0-9])"
    alone = _is(
        "word", rf"{_LETTER}{index}|(?:{_LETTER}|(?:[Nn]o|{_LETTER}{{3,}})(?:[ -]{_LETTER}+)*)\b"
    )
    return rf"{_OPENED}[ (]*{in_command}|{alone}"


def _unit() -> str:
    """What may stand behind a number as its unit: words other than `and` and `or`, and symbols."""
    joined = rf"(?:[ }}]*(?:{_PRODUCT}|\\,|per\b)?(?:{_S}{_OPENED})?[ (]*{_ATOM})*"
    degree = r"\^ ?\{? ?\\circ\b ?\}? ?[A-Za-z]*"
    # A letter right behind a number may be a variable, but not with a unit below it: 3g/mol.
    glued = rf"[mgsNJWVAKCTLlhM]{_UNIT_POWER}/{_ATOM}"
    first = (
        rf"(?:{_BLANK}*{_OPENED}{_S}{_ATOM}|{_BLANK}+{_ATOM}|{_UNIT_WORD}{_UNIT_POWER}|{degree}"
        rf"|{glued})"
    )
    return rf"(?:{_is('unit', first + joined)})?"


def _answer_token() -> str:
    conjunction = rf"(?:{_OPENED} ?)?(?:and|or)\b"
    nothing = rf"\s|{_BLANK}|\\(?:left|right|displaystyle|quad|[bB]ig[lr]?)\b|{_OPENED}|\$"
    greek = r"\\(?P<word_greek>alpha|beta|gamma|delta|theta|lambda|phi|omega|sigma|rho)"
    tokens = [
        _number(_S, _unit()),
        _is("separator", rf"[,;](?:\s*{conjunction})?|{conjunction}"),
        rf"(?:{_is('minus', _DASH)}|\+)?{_is('infinity', _INFINITY)}",
        _word(),
        greek,
        _is("equals", r"=|\\in\b|∈|\\approx\b|≈|:"),
        nothing + r"|\\[\[\]()]|\*\*|[.。{}&]",
        _is("left", r"[(\[]|\\\{"),
        _is("right", r"[)\]]|\\\}"),
        _is("other", "(?s:.)"),
    ]
    return "|".join(tokens)


TEXT_TOKEN = _text_token()
ANSWER_TOKEN = _answer_token()
