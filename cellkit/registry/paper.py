"""The paper of a cell, as a spec holds it and as a docstring writes it."""

from __future__ import annotations

import dataclasses
import re

from cellkit.errors import problem

__all__ = ["Paper", "paper_of"]

_WRITTEN = re.compile(
    r'\s*Paper: (?P<authors>[^"]+?) (?P<year>\d{4}), "(?P<title>[^"]+)", (?P<identifier>\w+:\S+)'
)


@dataclasses.dataclass(frozen=True)
class Paper:
    """The source of a cell.

    Args:
        authors: The authors, e.g. ``"Cho et al."`` or all of them.
        year: Year of publication.
        title: Title of the paper.
        identifier: A key to find it: ``"arXiv:1406.1078"``,
            ``"doi:10.1162/neco.1997.9.8.1735"``, or an address.

    Example:
    >>> paper = Paper("Cho et al.", 2014, "Learning Phrase Representations", "arXiv:1406.1078")
    >>> print(paper)
    Cho et al. (2014): Learning Phrase Representations. arXiv:1406.1078
    >>> paper.url
    'https://arxiv.org/abs/1406.1078'
    """

    authors: str
    year: int
    title: str
    identifier: str

    def __post_init__(self) -> None:
        """Check the four fields.

        Raises:
            ValueError: When one of them is empty or is not a string, a year or an identifier.
        """
        for field in ("authors", "title"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise problem(
                    f"The {field} of a paper must be a text.",
                    received=f"{field}={value!r}",
                    expected="a text that is not empty",
                    fix=f"write the {field} as the paper gives them",
                )
        if isinstance(self.year, bool) or not isinstance(self.year, int) or self.year < 1000:
            raise problem(
                "The year of a paper must be a year.",
                received=f"year={self.year!r}",
                expected="an int with four digits",
                fix="write the year of publication, for example year=1997",
            )
        if not isinstance(self.identifier, str) or not re.match(r"\w+:\S", self.identifier):
            raise problem(
                "The identifier of a paper must say what kind it is.",
                received=f"identifier={self.identifier!r}",
                expected="'arXiv:...', 'doi:...', 'isbn:...' or an address",
                fix="put the kind before the number, for example 'arXiv:1406.1078'",
            )

    @property
    def url(self) -> str | None:
        """The address of the paper, or None when its identifier gives none."""
        kind, _, number = self.identifier.partition(":")
        if kind.lower() == "arxiv":
            return f"https://arxiv.org/abs/{number}"
        if kind.lower() == "doi":
            return f"https://doi.org/{number}"
        return self.identifier if kind.lower() in ("http", "https") else None

    def bibtex(self, key: str) -> str:
        """Return the paper as an entry of BibTeX.

        Args:
            key: The name under which a text cites it.

        Example:
        >>> print(Paper("Cho and Bengio", 2014, "Learning", "arXiv:1406.1078").bibtex("gru"))
        @misc{gru,
          author = {Cho and Bengio},
          title = {{Learning}},
          year = {2014},
          eprint = {1406.1078},
          archiveprefix = {arXiv},
        }
        """
        kind, _, number = self.identifier.partition(":")
        names = re.split(r",\s*(?:and\s+)?|\s+and\s+", self.authors.removesuffix(" et al."))
        authors = [name for name in names if name]
        if self.authors.endswith(" et al."):
            authors.append("others")
        fields = {"author": " and ".join(authors), "title": f"{{{self.title}}}", "year": self.year}
        if kind.lower() == "arxiv":
            fields |= {"eprint": number, "archiveprefix": "arXiv"}
        elif kind.lower() in ("doi", "isbn"):
            fields[kind.lower()] = number
        else:
            fields["url" if self.url else "note"] = self.identifier
        kind = "article" if kind.lower() == "doi" else "misc"
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
        return "\n".join([f"@{kind}{{{key},", *lines, "}"])

    def __str__(self) -> str:
        """Return the paper as one line of a bibliography."""
        return f"{self.authors} ({self.year}): {self.title}. {self.identifier}"


def paper_of(docstring: str | None) -> Paper | None:
    """Return the paper that a docstring names, None if it names none.

    Args:
        docstring: The docstring of a class. Its paper begins a line, and may go on over others.

    Example:
    >>> paper = paper_of('''The cell.
    ...
    ...     Paper: Cho et al. 2014, "Learning Phrase
    ...     Representations", arXiv:1406.1078, section 2.
    ... ''')
    >>> print(paper)
    Cho et al. (2014): Learning Phrase Representations. arXiv:1406.1078
    """
    for paragraph in re.split(r"\n\s*\n", docstring or ""):
        found = _WRITTEN.match(re.sub(r"\s+", " ", paragraph))
        if found:
            authors, year, title, identifier = found.groups()
            return Paper(authors, int(year), title, identifier.rstrip(".,;"))
    return None
