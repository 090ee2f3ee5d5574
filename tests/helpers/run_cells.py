"""Every registered cell against its reference, in the process of one backend; prints JSON.

    python run_cells.py [CELL]...

It takes what a backend without gradients has: sequences, given states, a mask with gaps.
"""

import json
import sys
import warnings

import keras
import numpy as np

import cellkit
from cellkit_conformance.examples.strategies import Example
from cellkit_conformance.subject import targets
from cellkit_conformance.subject.subject import Subject

MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=bool)


def difference(name):
    """Return how far a layer is from the reference, as a part of what rounding explains."""
    target = targets.describe_found(targets.find(name, None))
    case = next(iter(target.cases))
    subject = Subject(target, case, cellkit.RNN, {})
    subject.set_weights(1)
    example = Example(3, 5, seed=3, initial_state=True)
    inputs, states = subject.inputs(example), subject.random_states(example)
    mask = MASK if "masking" in target.traits else None
    got = subject.run(subject.layer(return_sequences=True), inputs, states, mask)
    want = subject.expect(inputs, states, mask)
    pairs = zip(
        keras.tree.flatten([got.output, got.states]),
        keras.tree.flatten([want.sequence, want.states]),
        strict=True,
    )
    tolerance = subject.tolerance(example.time)
    return max(tolerance.compare(np.asarray(a), np.asarray(b)).ratio for a, b in pairs)


def main():
    """Print for each cell how far it is from its reference, or the error that it raised."""
    # Keras' variables on NumPy define __array__ without the `copy` argument of NumPy 2.
    warnings.filterwarnings("ignore", message="__array__", category=DeprecationWarning)
    found = {}
    for name in sys.argv[1:] or cellkit.list_cells():
        try:
            found[name] = float(difference(name))
        except ValueError as error:
            found[name] = str(error)
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
