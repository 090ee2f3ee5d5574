"""The mutants: deliberately broken cells and layers, and which checks must notice each.

A check that no mutant fails could be passed by anything. `kills` names the checks that must fail on
a mutant on every backend; others may notice it too. The project's tests run all of them, and demand
that every requirement of the edition kills at least one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

import cellkit
from cellkit_conformance.canaries import NestedCanary, PlainCanary
from cellkit_conformance.judge import Judge
from cellkit_conformance.mutants import cells, layers
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.profiles import PROFILES
from cellkit_conformance.targets import describe


@dataclass(frozen=True)
class Mutant:
    """One defect.

    Attributes:
        broken: The broken cell class or layer class.
        kills: Ids of the checks that must notice it.
        cell: The canary that a broken layer runs; the cell itself for a broken cell.
        raises: Whether the defect is an exception. Of any other mutant an exception proves nothing:
            it may be the mutant that does not run.
    """

    broken: Any
    kills: tuple[str, ...]
    cell: Any = None
    raises: bool = False

    @property
    def name(self) -> str:
        """The name of the broken class."""
        return self.broken.__name__

    def judge(self, backend: str, seed: int = 7) -> Judge:
        """Make what runs checks on this mutant, without shrinking.

        Args:
            backend: The backend of this process.
            seed: Of what is drawn.
        """
        cell = self.cell or self.broken
        layer = self.broken if self.cell else cellkit.RNN
        target = describe(self.name, cell, cell.spec)
        return Judge(target, backend, PROFILES["quick"], seed, layer, shrink=False)

    def survivors(self, backend: str) -> list[Result]:
        """Run the checks that must notice the defect and return those that do not.

        Args:
            backend: The backend of this process.
        """
        judge = self.judge(backend)
        results = [judge.run(identifier) for identifier in self.kills]
        noticed = {Outcome.FAIL, Outcome.ERROR} if self.raises else {Outcome.FAIL}
        return [result for result in results if result.outcome not in noticed]


def _cell(broken: Any, *kills: str) -> Mutant:
    return Mutant(broken, kills)


def _layer(broken: Any, *kills: str, cell: Any = PlainCanary, raises: bool = False) -> Mutant:
    return Mutant(broken, kills, cell, raises)


MUTANTS = (
    _cell(cells.WrongSign, "NUM-01", "NUM-02", "NUM-03"),
    _cell(cells.SwappedGates, "NUM-01", "NUM-02"),
    _cell(cells.StateNotUpdated, "NUM-01", "SEQ-08", "GRD-04", "MSK-10"),
    _cell(cells.OldStateOut, "NUM-01", "NUM-02"),
    _cell(cells.DroppedBias, "NUM-01", "NUM-10", "GRD-03"),
    _cell(cells.WrongConstant, "NUM-03"),
    _cell(cells.BatchLeak, "SEQ-05"),
    _cell(cells.DeadInput, "NUM-10", "NUM-01"),
    _cell(cells.Overflow, "NUM-05"),
    _cell(cells.DivisionByInput, "NUM-06", "GRD-05"),
    _cell(cells.RootAtZero, "GRD-05"),
    _cell(cells.CutGradient, "GRD-04", "MSK-10"),
    _cell(cells.FrozenWeight, "GRD-03"),
    _cell(cells.SizeAfterBuild, "STR-01"),
    _cell(cells.WrongOutputSize, "STR-05"),
    _cell(cells.SameCases, "STR-02"),
    _cell(cells.HalfStates, "STR-03"),
    _cell(cells.RemembersBatch, "STR-04"),
    _cell(cells.LazyWeight, "STR-06"),
    _cell(cells.SharedWeight, "STR-07"),
    _cell(cells.ListsOnly, "STR-09"),
    _cell(cells.MutatesStates, "PUR-01"),
    _cell(cells.BlindReference, "NUM-04"),
    _cell(cells.DeniesMasking, "MSK-17"),
    _cell(cells.NoiseInInference, "RNG-01"),
    _cell(cells.HiddenNoise, "RNG-08"),
    _cell(cells.LostArgument, "SER-01", "SER-02"),
    _cell(cells.IgnoredDropout, "RNG-02", "RNG-03"),
    _cell(cells.ResampledDropout, "RNG-03"),
    _layer(layers.NotTheLast, "SEQ-01"),
    _layer(layers.InitialStatesReturned, "SEQ-02", "NUM-02", "SEQ-09"),
    _layer(layers.ExtraStep, "SEQ-03", "NUM-02"),
    _layer(layers.NeedsSteps, "SEQ-04", "SEQ-06", raises=True),
    _layer(layers.SeesTheFuture, "SEQ-08"),
    _layer(layers.PositionLeak, "SEQ-09", "MSK-03"),
    _layer(layers.BackwardsReordered, "SEQ-10", "SEQ-11"),
    _layer(layers.MaskNotReversed, "MSK-14", "SEQ-11"),
    _layer(layers.UnrollIgnoresZeroing, "SEQ-11", "MSK-06"),
    _layer(layers.FixedLength, "SEQ-12"),
    _layer(layers.OnesForStates, "STA-01"),
    _layer(layers.IgnoresInitialState, "STA-02", "STA-06"),
    _layer(layers.NeverStores, "STA-03", "STA-15"),
    _layer(layers.ResetsToZeros, "STA-04", cell=NestedCanary),
    _layer(layers.NoEarlyReset, "STA-05", raises=True),
    _layer(layers.StoresTheOld, "STA-06"),
    _layer(layers.AnyBatch, "STA-08"),
    _layer(layers.MaskScales, "MSK-01"),
    _layer(layers.MaskIgnored, "MSK-02", "MSK-03", "MSK-04", "MSK-05", "MSK-07", "MSK-08"),
    _layer(layers.MaskShifted, "MSK-02", "MSK-03", "MSK-08"),
    _layer(layers.PaddingRead, "MSK-08"),
    _layer(layers.MaskedRowsRun, "MSK-07", "MSK-02"),
    _layer(layers.HoldsState, "MSK-05", "MSK-06"),
    _layer(layers.ZeroesOutputs, "MSK-04"),
    _layer(layers.BytesInverted, "MSK-11"),
    _layer(layers.AnyMaskShape, "MSK-12", "MSK-13"),
    _layer(layers.MaskNotHandedOn, "MSK-15"),
    _layer(layers.WrongSymbolicShape, "CMP-08"),
    _layer(layers.OtherErrors, "ERR-01"),
    _layer(layers.BreaksOnError, "ERR-03"),
    _layer(keras.layers.RNN, "MSK-09", "SEQ-04", raises=True),
)
