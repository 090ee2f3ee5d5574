"""Dates as people write them, in four languages, and as ISO 8601 does. Imports no Keras.

    written, iso, names = dates(seed=1, count=100, days=DAYS, formats=FORMATS)

A format is a function from a date, so a further one is one more line of `FORMATS`. A text such as
`"3/4/05"` can be read in two ways: in `AMBIGUOUS` day and month stand in either order.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

import numpy as np

FIRST, LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)
ENGLISH, GERMAN, FRENCH, SPANISH = (
    tuple(f"{first} {then}".split())
    for first, then in (
        (
            "January February March April May June",
            "July August September October November December",
        ),
        ("Januar Februar März April Mai Juni", "Juli August September Oktober November Dezember"),
        ("janvier février mars avril mai juin", "juillet août septembre octobre novembre décembre"),
        (
            "enero febrero marzo abril mayo junio",
            "julio agosto septiembre octubre noviembre diciembre",
        ),
    )
)
WEEKDAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
ROMAN = tuple("I II III IV V VI VII VIII IX X XI XII".split())

Format = Callable[[datetime.date], str]


def ordinal(day: int) -> str:
    """Return `"1st"`, `"2nd"`, `"13th"`."""
    end = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{end}"


FORMATS: dict[str, Format] = {
    "ISO": lambda d: f"{d:%Y-%m-%d}",
    "compact": lambda d: f"{d:%Y%m%d}",
    "slashes": lambda d: f"{d:%Y/%m/%d}",
    "dots": lambda d: f"{d.day}.{d.month}.{d.year}",
    "dots, short": lambda d: f"{d:%d.%m.%y}",
    "roman": lambda d: f"{d.day}.{ROMAN[d.month - 1]}.{d.year}",
    "English": lambda d: f"{d.day} {ENGLISH[d.month - 1]} {d.year}",
    "English, American": lambda d: f"{ENGLISH[d.month - 1]} {d.day}, {d.year}",
    "English, short": lambda d: f"{d.day:02}-{ENGLISH[d.month - 1][:3]}-{d.year % 100:02}",
    "English, capitals": lambda d: f"{ENGLISH[d.month - 1][:3].upper()} {d.day:02} {d.year}",
    "English, ordinal": lambda d: f"{ordinal(d.day)} of {ENGLISH[d.month - 1]}, {d.year}",
    "English, weekday": lambda d: (
        f"{WEEKDAYS[d.weekday()]}, {ENGLISH[d.month - 1]} the {ordinal(d.day)} '{d.year % 100:02}"
    ),
    "English, email": lambda d: (
        f"{WEEKDAYS[d.weekday()][:3]}, {d.day} {ENGLISH[d.month - 1][:3]} {d.year} 12:30"
    ),
    "German": lambda d: f"{d.day}. {GERMAN[d.month - 1]} {d.year}",
    "German, short": lambda d: f"den {d.day}. {GERMAN[d.month - 1][:3]}. {d.year % 100:02}",
    "French": lambda d: f"le {d.day}{'er' if d.day == 1 else ''} {FRENCH[d.month - 1]} {d.year}",
    "Spanish": lambda d: f"{d.day} de {SPANISH[d.month - 1]} de {d.year}",
}

# The same text for two dates, where both numbers could be a month.
AMBIGUOUS: dict[str, Format] = {
    "day first": lambda d: f"{d.day}/{d.month}/{d.year % 100:02}",
    "month first": lambda d: f"{d.month}/{d.day}/{d.year % 100:02}",
}

DAYS = tuple(datetime.date.fromordinal(n) for n in range(FIRST.toordinal(), LAST.toordinal() + 1))

# Every letter that is written in some year.
LETTERS = "".join(
    sorted({c for f in (*FORMATS.values(), *AMBIGUOUS.values()) for d in DAYS[::31] for c in f(d)})
)


def readings(written: str, name: str) -> set[str]:
    """Return the dates that a text can mean, as ISO 8601; an empty set if there is just one."""
    if name not in AMBIGUOUS:
        return set()
    first, second, year = map(int, written.split("/"))
    if first == second or max(first, second) > 12:
        return set()
    year += 1900 if year >= FIRST.year % 100 else 2000
    return {datetime.date(year, *pair).isoformat() for pair in ((first, second), (second, first))}


def split(seed: int) -> tuple[list[datetime.date], list[datetime.date]]:
    """Return the days of a century in two parts without a day in common, nine to one."""
    order = np.random.default_rng(seed).permutation(len(DAYS))
    cut = len(DAYS) * 9 // 10
    return [DAYS[k] for k in order[:cut]], [DAYS[k] for k in order[cut:]]


def dates(
    seed: int, count: int, days: Sequence[datetime.date], formats: dict[str, Format]
) -> tuple[list[str], list[str], list[str]]:
    """Return dates, the same for the same seed.

    Args:
        seed: Of the draws.
        count: How many.
        days: What they are drawn from.
        formats: The formats by their names, each as probable as the others.

    Returns:
        What is written, the same as ISO 8601, and the names of the formats.
    """
    random = np.random.default_rng(seed)
    names = random.choice(list(formats), size=count).tolist()
    drawn = [days[k] for k in random.integers(len(days), size=count)]
    written = [formats[name](day) for name, day in zip(names, drawn, strict=True)]
    return written, [day.isoformat() for day in drawn], names
