"""The edition: the requirements as data, how to select from them, and how thorough a run is."""

from cellkit_conformance.edition.catalogue import (
    DATA,
    PROFILE_ORDER,
    Requirement,
    edition_name,
    fingerprint,
    groups,
    requirements,
    select,
)

__all__ = [
    "DATA",
    "PROFILE_ORDER",
    "Requirement",
    "edition_name",
    "fingerprint",
    "groups",
    "requirements",
    "select",
]
