"""The mutants: deliberately broken cells and layers, and which checks must notice each.

A check that no mutant fails could be passed by anything. `kills` names the checks that must fail on
a mutant on every backend; others may notice it too. The project's tests run all of them, and demand
that every requirement of the edition kills at least one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

import cellkit
from cellkit_conformance.canaries import CANARIES, NestedCanary, PlainCanary
from cellkit_conformance.judge import Judge
from cellkit_conformance.mutants import cells, engines, layers
from cellkit_conformance.outcome import Outcome, Result
from cellkit_conformance.places import NEEDS_TWO
from cellkit_conformance.profiles import Profile
from cellkit_conformance.targets import describe, resolve

PROFILE = Profile("quick", examples=0, all_cases=False, timeout=60.0)
"""The edges alone: a defect that only luck would find is not noticed."""

CROSS = frozenset({"GRD-02", "SER-04", "ERR-02"})
"""Checks that compare backends: the unbroken cell or layer takes the part of another backend."""

NOT_HERE = {
    "torch": frozenset({"CMP-01", "CMP-02"}),
    "jax": frozenset({"DTY-02"}),
    "tensorflow": frozenset[str](),
}
"""Checks that do not apply on a backend, in the quick profile and without x64."""


@dataclass(frozen=True)
class Mutant:
    """One defect.

    Attributes:
        broken: The broken cell class or layer class, or `module:Class` of a cell.
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
        if isinstance(self.broken, str):
            return self.broken.split(":")[1]
        return str(self.broken.__qualname__)

    def judge(self, backend: str, seed: int = 7, exchange: str | None = None) -> Judge:
        """Make what runs checks on this mutant, without shrinking.

        Args:
            backend: The backend of this process.
            seed: Of what is drawn.
            exchange: A folder where another backend has left its results.
        """
        layer = self.broken if self.cell else cellkit.RNN
        return self._judge(self._target(), layer, backend, seed, exchange)

    def _judge(self, target: Any, layer: Any, backend: str, seed: int, exchange: Any) -> Judge:
        return Judge(target, backend, PROFILE, seed, layer, False, exchange, blame=False)

    def _target(self) -> Any:
        if isinstance(self.broken, str):
            # Imported anew, because its defect is what importing it does.
            sys.modules.pop(self.broken.split(":")[0], None)
            epsilon = keras.config.epsilon()
            try:
                return resolve(self.broken)
            finally:
                keras.config.set_epsilon(epsilon)
        cell = self.cell or self.broken
        return describe(self.name, cell, cell.spec)

    def results(self, backend: str, identifiers: Iterable[str] | None = None) -> list[Result]:
        """Run checks on the mutant.

        Args:
            backend: The backend of this process.
            identifiers: The checks; those that must notice the defect unless given.
        """
        chosen = list(self.kills if identifiers is None else identifiers)
        with tempfile.TemporaryDirectory() as folder:
            judge = self.judge(backend, exchange=folder)
            if crossing := CROSS.intersection(chosen):
                self._play_another_backend(crossing, folder)
            return [judge.run(identifier) for identifier in chosen]

    def _play_another_backend(self, identifiers: Iterable[str], folder: str) -> None:
        """Let the unbroken cell leave its results, as if it had run on another backend."""
        canary = self.cell or next(c for c in CANARIES if issubclass(self.broken, c))
        target = describe(self.name, canary, canary.spec)
        for identifier in identifiers:
            self._judge(target, cellkit.RNN, "another", 7, folder).run(identifier)

    def survivors(self, backend: str) -> list[Result]:
        """Run the checks that must notice the defect and return those that do not.

        Args:
            backend: The backend of this process.
        """
        return [r for r in self.results(backend) if not self.noticed(r, backend)]

    def noticed(self, result: Result, backend: str) -> bool:
        """Whether a check found the defect, or cannot on this backend.

        Args:
            result: Of the check.
            backend: The backend of this process.
        """
        if result.outcome is Outcome.NOT_APPLICABLE:
            alone = result.requirement in NEEDS_TWO and "one device" in result.message
            return alone or result.requirement in NOT_HERE[backend]
        return result.outcome in ({Outcome.FAIL, Outcome.ERROR} if self.raises else {Outcome.FAIL})


LSTM = cellkit.get("lstm").cls
"""A cell to which fast paths apply, which no canary is."""


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
    _cell(cells.CountedNames, "STR-08"),
    _cell(cells.MiscountedWeights, "STR-10"),
    _cell(cells.NotTheFrameworks, "NUM-08"),
    _cell(cells.NeedsTwoFeatures, "SEQ-07"),
    _cell(cells.LearnedStateCut, "STA-13"),
    _cell(cells.ScaledGradient, "GRD-01", "GRD-02"),
    _cell(cells.NoisyGradient, "GRD-06"),
    _cell(cells.DoesNotTrain, "GRD-09"),
    _cell(cells.UnscaledDropout, "RNG-04"),
    _cell(cells.RateIsKept, "RNG-04"),
    _cell(cells.HiddenSeed, "RNG-07"),
    _cell(cells.ZoneoutOnce, "RNG-09"),
    _cell(cells.ZoneoutUnscaled, "RNG-09"),
    _cell(cells.FixedSeed, "RNG-10"),
    _cell(cells.DeniesZoneout, "RNG-11"),
    _cell(cells.Nowhere, "SER-03"),
    _cell(cells.OtherWeightOrder, "SER-04"),
    _cell(cells.HiddenWeight, "SER-06", "SER-04"),
    _cell(cells.UntrackedVariable, "SER-06"),
    _cell(cells.NamesTheDefault, "SER-10"),
    _cell(cells.NeedsEveryArgument, "SER-11"),
    _cell(cells.NarrowWeights, "DTY-01"),
    _cell(cells.SingleWeights, "DTY-02"),
    _cell(cells.PromotedOutput, "DTY-03"),
    _cell(cells.ClaimsAccumulator, "DTY-04"),
    _cell(cells.GlobalPolicy, "DTY-06"),
    _cell(cells.Quantizes, "DTY-07"),
    _cell(cells.ForgetsBias, "SER-02"),
    _cell(cells.Clipped, "NUM-01"),
    _cell(cells.LearnedStateHalf, "GRD-01"),
    _cell(cells.RecurrentResampled, "RNG-03"),
    _cell(cells.RecurrentUnscaled, "RNG-04"),
    _cell(cells.RowsDropAlike, "RNG-11"),
    _cell("cellkit_conformance.mutants.meddler:Meddler", "PUR-06"),
    _layer(layers.LongRunsDrift, "NUM-07"),
    _layer(layers.FlattensAxes, "SEQ-13"),
    _layer(layers.TakesAnyEngine, "SEQ-16"),
    _layer(layers.ReadsBuffers, "SEQ-14"),
    _layer(layers.BoolsInverted, "SEQ-15"),
    _layer(layers.TrainingForgets, "STA-07"),
    _layer(layers.ForgetsWhenSaved, "STA-09"),
    _layer(layers.FloatStates, "STA-10", cell=NestedCanary),
    _layer(layers.CountsInHalf, "STA-11", cell=NestedCanary),
    _layer(layers.FlipsMatrices, "STA-12", cell=NestedCanary),
    _layer(layers.StatesReordered, "STA-14", "SEQ-02", "WRP-02"),
    _layer(layers.ImplicitMaskLost, "MSK-16"),
    _layer(layers.BackwardsIgnoresMask, "MSK-18", "MSK-14", "WRP-01"),
    _layer(layers.StatefulGradient, "GRD-10"),
    _layer(layers.UnrollMovesSeed, "RNG-05", cell=NestedCanary),
    _layer(layers.StaleAfterError, "RNG-06", cell=NestedCanary),
    _layer(layers.AcceptsAnyWeights, "SER-07"),
    _layer(layers.CopiesShare, "SER-08"),
    _layer(layers.ForgetsDirection, "SER-09"),
    _layer(layers.OnlyEager, "CMP-01"),
    _layer(layers.NewEveryCall, "CMP-02"),
    _layer(layers.ProbesTheStep, "CMP-03"),
    _layer(layers.StackScales, "WRP-03", "WRP-04"),
    _layer(layers.ChangedByModels, "WRP-05"),
    _layer(layers.RemembersLast, "WRP-06", "RNG-01"),
    _layer(layers.CachesById, "PUR-02"),
    _layer(layers.SharedCounter, "PUR-03"),
    _layer(layers.NotForThreads, "PUR-04"),
    _layer(layers.OneDevice, "DEV-01", "DEV-04"),
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
    _layer(layers.EightRows, "SEQ-05"),
    _layer(layers.GapHalves, "MSK-10"),
    _layer(layers.TakesOneRow, "ERR-01"),
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
    _layer(layers.OtherErrors, "ERR-01", "ERR-02"),
    _layer(layers.BreaksOnError, "ERR-03"),
    _layer(engines.EngineFillsGaps, "DEV-02", cell=LSTM),
    _layer(engines.EngineHalves, "DEV-02", cell=LSTM),
    _layer(engines.EngineInSilence, "DEV-03", cell=LSTM),
    _layer(engines.EngineWithoutReasons, "DEV-03", cell=LSTM),
    _layer(engines.RematHalves, "GRD-12", cell=LSTM),
    _layer(engines.RematForgetsMask, "GRD-12", cell=LSTM),
    _layer(engines.NeverTruncates, "GRD-13", cell=LSTM),
    _layer(engines.TruncatesEarly, "GRD-13", cell=LSTM),
    _layer(engines.TruncatesOutputs, "GRD-13", cell=LSTM),
    _layer(keras.layers.RNN, "MSK-09", "SEQ-04", raises=True),
)
