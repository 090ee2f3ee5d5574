"""The equations that a docstring shows, evaluated as written, give the reference's numbers."""

import re

import keras
import numpy as np
import pytest
from cell_numbers import random_weights

import cellkit
from cellkit.equations.analyse import check_all
from cellkit.equations.declare import declare
from cellkit.equations.reference import reference_of
from cellkit.equations.shown import shown_equations

pytestmark = pytest.mark.one_backend

# Declarations beside each text; `config` has the cell's arguments under the text's names, and
# `without` the cases of the spec that the text is not about.
SAID = {
    "alif": {
        "numbers": {"alpha": 0.95, "rho": 0.995, "beta": 1.6, "threshold": 0.01},
        "without": {"feedforward": "the text is that of the cell with V"},
    },
    "cifg_lstm": {},
    "esn": {"numbers": {"leaky": 1.0}},
    "gru": {},
    "janet": {"numbers": {"beta": 1.0}},
    "layer_norm_lstm": {},
    "ligru": {
        "without": {
            "batch": "what stands for W @ x then is a text of its own",
            "batch_dropout": "what stands for W @ x then is a text of its own",
        },
    },
    "layer_norm_simple_rnn": {},
    "lmu": {"without": {"two_signals": "the text is that of one signal"}},
    "lstm": {},
    "lstmp": {"sizes": {"P": "projection_units"}},
    "mgu": {},
    "min_gru": {"without": {"linear": "its candidate has another activation than g"}},
    "min_lstm": {"without": {"linear": "its candidate has another activation than g"}},
    "nas": {},
    "peephole_lstm": {},
    "phased_lstm": {
        "inputs": ("x", "t"),
        "numbers": {"alpha": 1e-3},
        "without": {
            "peepholes": "the text is that of the cell without them",
            "no_leak": "it leaks in training alone",
        },
    },
    "scrn": {"states": ("h", "s")},
    "simple_rnn": {},
    "slstm": {"states": ("y", "c", "n", "m"), "without": {"heads": "U is one block per head"}},
    "ugrnn": {},
    "zoneout_lstm": {
        "numbers": {"d_c": 0.1, "d_h": 0.1},
        "config": {"d_c": "zoneout_c", "d_h": "zoneout_h"},
    },
}

NOT_SAID = {
    "antisymmetric_rnn": "its matrices are made of other ones",
    "attention": "it reads a memory that is handed over as a constant",
    "block_gru": "its matrices are made of blocks",
    "cfc": "its backbone has an activation of its own, and any number of layers",
    "clockwork": "its states are blocks, and it sums over some of them",
    "conv_gru": "its products are convolutions",
    "conv_lstm": "its products are convolutions",
    "conv_rnn": "its products are convolutions",
    "ct_gru": "its state is a matrix",
    "delta_net": "its state is a matrix per head",
    "dropout": "its step has the step of another cell inside",
    "fast_slow": "its step has the step of another cell inside",
    "feedback": "its step has the step of another cell inside",
    "ffm": "its state is complex",
    "gated_antisymmetric_rnn": "its matrices are made of other ones",
    "gated_delta_net": "its state is a matrix per head",
    "gated_fusion": "it has any number of inputs, and sums over them",
    "gla": "its state is a matrix per head",
    "gru_d": "it counts the time since a variable was observed, in words",
    "highway": "its step has the step of another cell inside",
    "hyper_lstm": "one line stands for all gates",
    "lif": "what a reset does stands in three lines, one for each kind",
    "linear_attention": "its state is a matrix per head",
    "lipschitz_rnn": "its matrices are made of other ones",
    "lru": "its state is complex",
    "ltc": "it has a weight for each pair of units, and sums over them",
    "mamba": "its state is a matrix",
    "mamba2": "its state is a matrix per head",
    "mass_conserving_lstm": "it normalises the rows of matrices that it makes at every step",
    "mlstm": "its state is a matrix per head",
    "multiplicative": "its step has the step of another cell inside",
    "nested": "its kernels have more than two axes",
    "nested_lstm": "it has any number of levels, each inside of the one above",
    "norm": "its step has the step of another cell inside",
    "qrnn": "it looks at inputs of earlier steps",
    "residual": "its step has the step of another cell inside",
    "retnet": "its state is a matrix per head",
    "rg_lru": "its first line depends on the width of the inputs",
    "rhn": "its rounds have weights of their own, written by an index",
    "rwkv4": "its sums are kept under another scale, which the text puts into words",
    "rwkv6": "its state is a matrix per head",
    "rwkv7": "its state is a matrix per head",
    "s4d": "its state is complex",
    "s5": "its state is complex",
    "t_gru": "it looks at the input of the step before",
    "t_lstm": "it looks at the input of the step before",
    "tau_gru": "it looks at a state of several steps before",
}


def shown():
    """Return the cells that are written by hand and show equations."""
    found = []
    for name in cellkit.list_cells():
        cls = cellkit.get(name).cls
        by_hand = not issubclass(cls, cellkit.EquationCell)
        if by_hand and shown_equations(cls) and name not in NOT_SAID:
            found.append(name)
    return found


def equations(name):
    """Return the text in the docstring of a cell."""
    return shown_equations(cellkit.get(name).cls)


def declared(name, text=None):
    beside = {k: v for k, v in SAID.get(name, {}).items() if k not in ("config", "without")}
    return declare("ShownCell", equations(name) if text is None else text, **beside)


def cases():
    for name in shown():
        for case in cellkit.get(name).spec.cases:
            if case not in SAID.get(name, {}).get("without", {}):
                yield name, case


def test_what_is_spoken_of_is_there():
    assert {*SAID, *NOT_SAID} <= set(cellkit.list_cells()) and set(SAID) <= set(shown())
    for name, beside in SAID.items():
        assert set(beside.get("without", {})) < set(cellkit.get(name).spec.cases)


@pytest.mark.parametrize("name", shown())
def test_shown_equations_make_sense(name):
    found = check_all(declared(name))
    assert set(found[0].states) == set(cellkit.get(name).spec.states)


def difference(name, case, declaration):
    """Return by how much what is shown and the reference differ, over two steps."""
    spec, cls = cellkit.get(name).spec, cellkit.get(name).cls
    cell = cls(**spec.cases[case])
    shapes = spec.inputs if isinstance(spec.inputs[0], tuple) else (spec.inputs,)
    sizes = [tuple(3 if isinstance(d, str) else d for d in shape) for shape in shapes]
    built = [(None, *size) for size in sizes]
    cell.build(built[0] if len(built) == 1 else tuple(built))
    rng = np.random.default_rng(5)
    random_weights(cell, rng)
    weights = {k: v.astype("float64") for k, v in cellkit.export_weights(cell).items()}
    config = cell.get_config()
    config |= {k: config[v] for k, v in SAID.get(name, {}).get("config", {}).items()}
    shapes = [tuple(s.shape) for s in map(keras.ops.convert_to_numpy, leaves(cell))]
    states = [rng.normal(size=shape) for shape in shapes]
    if spec.draw_states is not None:
        states = spec.draw_states(states)
    names = declaration.states or check_all(declaration)[0].states
    order = [spec.states.index(n) for n in names]
    mine, worst = [states[i] for i in order], 0.0
    # Biases and peepholes that a case goes without are zero.
    letters = [p for a in check_all(declaration) for p in a.parameters.values()]
    without = {p.name: np.zeros(cell.units) for p in letters if len(p.shape) == 1 and not p.parts}
    for _ in range(2):
        x = [rng.normal(size=(2, *size)) for size in sizes]
        x = x[0] if len(x) == 1 else tuple(x)
        want, states = spec.reference(weights, x, states, config)
        have, mine = reference_of(declaration)({**without, **weights}, x, mine, config)
        pairs = [(have, want), *((mine[i], states[at]) for i, at in enumerate(order))]
        worst = max(worst, *(float(np.abs(a - b).max()) for a, b in pairs))
    return worst


def leaves(cell):
    return keras.tree.flatten(cell.get_initial_state(batch_size=2))


@pytest.mark.parametrize(("name", "case"), list(cases()))
def test_shown_equations_are_the_reference(name, case):
    assert difference(name, case, declared(name)) < 1e-12


# A sign, a gate, a prime: none of them goes unnoticed.
CHANGES = [
    (" + ", " - "),
    ("1 - ", "1 + "),
    ("' = f *", "' = i *"),
    ("(c')", "(c)"),
    (" * ", " + "),
]


@pytest.mark.parametrize("name", ["lstm", "gru", "mgu", "nas", "peephole_lstm", "slstm", "scrn"])
def test_a_wrong_letter_is_noticed(name):
    text, tried = equations(name), 0
    (case, *_) = cellkit.get(name).spec.cases
    for old, new in CHANGES:
        for at in [m.start() for m in re.finditer(re.escape(old), text)]:
            line = text[text.rfind("\n", 0, at) + 1 : at]
            if "  " in line.strip() and "=" not in line.strip().rsplit("  ", 1)[-1]:
                continue  # in a remark
            changed = text[:at] + new + text[at + len(old) :]
            tried += 1
            try:
                found = difference(name, case, declared(name, changed))
            except (ValueError, KeyError):
                continue
            unseen = "reset_after=False" in text[at : text.find("\n", at)]
            unseen |= 'third_gate="add"' in text[at : text.find("\n", at)]
            unseen |= 'forget_gate="exp"' in text[at : text.find("\n", at)]
            unseen |= 'variant="flax"' in text[:at]
            assert found > 1e-6 or unseen, changed
    assert tried > 4
