"""Outcomes of a check, and the record that travels from the worker to the reports."""

from __future__ import annotations

import re
import traceback
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

MESSAGE_LIMIT = 4000
"""Characters of a message that are kept; a cell may raise with megabytes of text."""


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# Control characters but for tab and line feed, marks that turn the direction of the text, halves of
# surrogate pairs, and noncharacters: they move a terminal's cursor or break a file.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


class Outcome(StrEnum):
    """Outcome of a check."""

    PASS = "pass"  # noqa: S105 (an outcome, no password)
    FAIL = "fail"
    ERROR = "error"
    TIMEOUT = "timeout"
    CRASH = "crash"
    NOT_APPLICABLE = "n/a"
    NOT_RUN = "not run"
    BLOCKED = "blocked"
    EXPECTED = "expected failure"
    STALE = "stale expectation"
    BACKEND_DEFECT = "backend defect"

    @property
    def is_bad(self) -> bool:
        """Say whether the requirement was found broken, in whatever way."""
        return self in {Outcome.FAIL, Outcome.ERROR, Outcome.TIMEOUT, Outcome.CRASH}


class Failure(AssertionError):
    """A requirement does not hold; the text says what was expected and what was found."""


class SpecFailure(Failure):
    """A part of the spec fails, in whatever check asks for it: all of them have that one cause."""


class NotApplicable(Exception):
    """The cell denies the trait that the requirement is about; the text says which."""


@dataclass
class Result:
    """One requirement for one cell on one backend.

    Attributes:
        cell: As named on the command line.
        backend: The Keras backend.
        requirement: The id.
        outcome: The outcome.
        message: One line that says what is wrong; empty for a pass.
        detail: Further lines, for example a traceback.
        example: The (shrunk) example that failed.
        examples: Number of examples that ran.
        error: The largest error of a numeric comparison, or None.
        limit: Its limit.
        headroom: The smallest limit/error seen; None where nothing was compared numerically.
        seconds: Wall time.
        seed: Of the run.
        reproduce: The command that runs this check alone.
        script: A Python program that shows the failure without the suite, or "".
    """

    cell: str
    backend: str
    requirement: str
    outcome: Outcome
    message: str = ""
    detail: str = ""
    example: dict[str, Any] | None = None
    examples: int = 0
    error: float | None = None
    limit: float | None = None
    headroom: float | None = None
    seconds: float = 0.0
    seed: int = 0
    reproduce: str = ""
    script: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the record as plain data; infinite numbers become strings, which JSON lacks."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        """Make the record again.

        Args:
            data: The result of `to_json`.
        """
        data = dict(data, outcome=Outcome(data["outcome"]))
        for key in ("error", "limit", "headroom"):
            data[key] = None if data[key] is None else float(data[key])
        return cls(**data)


def clean(text: str) -> str:
    """Write what a terminal would obey, or no file can hold, as escapes.

    Args:
        text: From anywhere.

    Returns:
        The text without colours, in which other control characters are spelt out.
    """
    text = _COLOURS.sub("", text).replace("\r\n", "\n")
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


def shorten(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Cut a long text in the middle and say so; see also `clean`.

    Args:
        text: Of any length.
        limit: The largest number of characters that stay.
    """
    if len(text) <= limit:
        return clean(text)
    half = limit // 2
    said = f"\n[... {len(text) - limit} characters left out ...]\n"
    return f"{clean(text[:half])}{said}{clean(text[-half:])}"


def text_of(error: BaseException) -> str:
    """Give the text of an error, even where asking for it raises.

    Args:
        error: Of a cell.
    """
    try:
        if isinstance(error, KeyError) and "\n" in str(error.args[0] if error.args else ""):
            # Python writes a key as a literal; what Keras makes of a KeyError is a text of lines.
            return str(error.args[0])
        return str(error)
    except Exception as own:  # noqa: BLE001 (that is the finding then)
        return f"(it has no text: its __str__ raises {type(own).__name__})"


def describe_error(error: BaseException) -> str:
    """Name an error and its text, so that it never ends in an empty colon.

    Args:
        error: Of a cell.
    """
    text = text_of(error).strip()
    return f"{type(error).__name__}: {text}" if text else f"{type(error).__name__}, without a text"


def trace_of(error: BaseException) -> str:
    """Format the innermost frames, the ones that tell something about the cell.

    Args:
        error: Of a cell.
    """
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-6)
    return "".join(line if len(line) < 2000 else shorten(line, 2000) for line in lines)


def one_line(text: str, limit: int = 300) -> str:
    """Take the first line of a text, shortened.

    Args:
        text: Of any length.
        limit: The largest number of characters that stay.
    """
    # Only so much of it is looked at: a text may have ten million lines.
    lines = [line.strip() for line in clean(text[:20_000]).split("\n") if line.strip()]
    line = lines[0] if lines else ""
    if len(lines) > 1 and "Exception encountered when calling" in line:
        # Keras puts this in front of what was raised.
        line = line.split("Exception encountered", 1)[0] + lines[1]
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _plain(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return str(value) if isinstance(value, Outcome) else value
