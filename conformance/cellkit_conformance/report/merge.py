"""Merging: the reports of shards, or of jobs with one backend each, joined into one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cellkit.errors import problem
from cellkit_conformance.edition import requirements, use
from cellkit_conformance.outcome import Result
from cellkit_conformance.report.comparison import read_report
from cellkit_conformance.report.report import Report
from cellkit_conformance.run.plan import RunPlan
from cellkit_conformance.run.runner import Backend, Unit, tell_once

SAME = ("edition", "profile", "seed", "layer", "spec", "spread")
"""What reports must have in common, or their outcomes say nothing together."""

USUAL = {"spread": False}
"""Values of what a report does not say."""


def merge(paths: Sequence[Path]) -> Report:
    """Join reports into the one that the whole run would have written.

    Args:
        paths: JSON reports. No two may hold the same check. Where they are shards, those that are
            missing become gaps of the result, whose exit code says so.

    Returns:
        The report of the whole.

    Raises:
        ValueError: A file is not a report, or the reports do not go together.
    """
    data = [read_report(path) for path in paths]
    for key in SAME:
        # Reports of older versions say nothing of `spread`: they asked everything.
        values = {
            path: report.get(key, USUAL.get(key)) for path, report in zip(paths, data, strict=True)
        }
        if len(set(values.values())) > 1:
            raise problem(
                f"The reports do not go together: they differ in their {key}.",
                received=", ".join(f"{path} {value!r}" for path, value in values.items()),
                expected=f"reports of one {key}",
                fix="merge only what one run was divided into",
            )
    if (name := data[0].get("edition")) is not None:
        use(name)
    data = [_checked(report, path) for report, path in zip(data, paths, strict=True)]
    # By shard, so that the order in which files are named changes nothing.
    order = sorted(range(len(data)), key=lambda i: (_shard(data[i]) or (0, 0), i))
    data, paths = [data[i] for i in order], [paths[i] for i in order]
    cells = list(dict.fromkeys(name for report in data for name in _cells(report)))
    names = list(dict.fromkeys(name for report in data for name in report["backends"]))
    asked = {id for report in data for id in report["requirements"]}
    units = _units(data, paths)
    plan = RunPlan(
        cells=cells,
        backends=names,
        ids=[id for id in requirements() if id in asked],
        profile=data[0]["profile"],
        seed=data[0]["seed"],
        layer=data[0]["layer"],
        spec=data[0].get("spec"),
        spread=data[0].get("spread", USUAL["spread"]),
    )
    missing = [name for report in data for name in report["missing_backends"]]
    return Report(
        plan,
        [units[cell, name] for name in names for cell in cells if (cell, name) in units],
        {name: _backend(name, data) for name in names},
        [name for name in dict.fromkeys(missing) if name not in names],
        max(report["seconds"] for report in data),
        created=max(report["created"] for report in data),
        platform=_joined(report.get("platform", "") for report in data),
        version=_joined(report.get("cellkit", "") for report in data),
        gaps=_gaps(data),
    )


def _checked(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Refuse a baseline, which has no results, and give a report with its results read."""
    try:
        results = [Result.from_json(entry) for entry in data["results"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _no_report(path, f"{type(error).__name__}: {error}") from error
    needed = ("units", "backends", "requirements", "missing_backends", "shard", "seconds")
    absent = [key for key in (*needed, "created", "edition") if key not in data]
    unknown = [r.requirement for r in results if r.requirement not in requirements()]
    if absent or unknown:
        what = f"no field {absent[0]!r}" if absent else f"an unknown requirement {unknown[0]!r}"
        raise _no_report(path, f"a file with {what}")
    return {**data, "results": results}


def _no_report(path: Path, received: str) -> ValueError:
    return problem(
        f"{path} is no report that can be merged.",
        received=received,
        expected="a file that `cellkit conform --json` wrote; a baseline has no results",
        fix="give each shard a file of its own, such as --json reports/part-1.json, and name all",
    )


def _cells(report: Mapping[str, Any]) -> list[str]:
    return [*report.get("cells", []), *(unit["cell"] for unit in report["units"])]


def _shard(report: Mapping[str, Any]) -> tuple[int, int] | None:
    if not report["shard"]:
        return None
    number, _, count = str(report["shard"]).partition("/")
    return int(number), int(count)


def _gaps(data: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which shards are missing, of each division of which there is one."""
    there: dict[int, set[int]] = {}
    for report in data:
        if (shard := _shard(report)) is not None:
            there.setdefault(shard[1], set()).add(shard[0])
    gaps = [gap for report in data for gap in report.get("gaps", [])]
    for count, numbers in there.items():
        lost = [str(i) for i in range(1, count + 1) if i not in numbers]
        if lost:
            gaps.append(f"shard {', '.join(lost)} of {count} is missing")
    return list(dict.fromkeys(gaps))


def _units(data: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> dict[tuple[str, str], Unit]:
    """Join what the reports say of each cell and backend."""
    units: dict[tuple[str, str], Unit] = {}
    origin: dict[tuple[str, str, str], Path] = {}
    for report, path in zip(data, paths, strict=True):
        for entry in report["units"]:
            key = (entry["cell"], entry["backend"])
            unit = units.setdefault(key, Unit(*key))
            for name in ("traits", "claims", "notes"):
                found = [*getattr(unit, name), *entry.get(name, [])]
                setattr(unit, name, list(dict.fromkeys(found)))
            unit.problem = unit.problem or entry["problem"]
            unit.source = unit.source or entry.get("source", "")
            unit.seconds += entry["seconds"]
        for result in report["results"]:
            check = (result.cell, result.backend, result.requirement)
            if check in origin:
                raise problem(
                    "Two reports hold the same check.",
                    received=f"{result.requirement} of {result.cell} on {result.backend} in "
                    f"{origin[check]} and {path}",
                    expected="reports of different shards, cells or backends",
                    fix="name each file once, and merge only what one run was divided into",
                )
            origin[check] = path
            units[check[:2]].results.append(result)
    positions = {id: number for number, id in enumerate(requirements())}
    for unit in units.values():
        unit.results.sort(key=lambda result: positions[result.requirement])
        unit.ids = [result.requirement for result in unit.results]
        tell_once(unit)
    return units


def _backend(name: str, data: Sequence[Mapping[str, Any]]) -> Backend:
    """Join the facts about a backend; versions that differ are both named."""
    entries = [report["backends"][name] for report in data if name in report["backends"]]
    packages = dict.fromkeys(key for entry in entries for key in entry["versions"])
    return Backend(
        name,
        any(entry["installed"] for entry in entries),
        {key: _joined(entry["versions"].get(key, "") for entry in entries) for key in packages},
        list(dict.fromkeys(device for entry in entries for device in entry["devices"])),
        max(entry["start_seconds"] for entry in entries),
        next((entry["problem"] for entry in entries if entry["problem"]), ""),
    )


def _joined(texts: Iterable[str]) -> str:
    """Name what differs once each."""
    return "; ".join(dict.fromkeys(text for text in texts if text))
