"""The edition: the requirements as data, how to select from them, and how thorough a run is."""

from cellkit_conformance.edition.catalogue import (
    DATA,
    PROFILE_ORDER,
    Requirement,
    edition_name,
    editions,
    fingerprint,
    groups,
    requirements,
    select,
    use,
)

__all__ = [
    "DATA",
    "PROFILE_ORDER",
    "Requirement",
    "edition_name",
    "editions",
    "fingerprint",
    "groups",
    "requirements",
    "select",
    "use",
]
