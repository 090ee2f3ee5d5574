"""Freeze what torchrecurrent computes, as a witness for the cells that it has too.

    pip install torchrecurrent==0.2.5
    KERAS_BACKEND=torch python tools/freeze_witnesses.py [NAME ...]

Each cell gets random weights, biases included, random inputs and random initial states, in float64;
its outputs and states over seven steps go to tests/golden, and an entry to the manifest there. The
weights are stored under the letters of the cell's equations. Nothing of cellkit computes what is
stored; the differences in the manifest compare it with the cell's reference.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
import torchrecurrent

import cellkit
from cellkit.registry import export_weights

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "golden"
BATCH, TIME, FEATURES, UNITS = 3, 7, 5, 4


@dataclass
class Witness:
    """Layout of a cell's weights in a class of torchrecurrent.

    Args:
        cls: Name of the class.
        tensors: For each of its tensors the letters of its blocks, in their order.
        options: Arguments of its constructor.
        read: Takes its output and its states from what it returns; None where that is its state.
        step: Takes the module, the inputs of a step and the states, for classes that are not called
            with the states alone; returns the output and the states.
        shapes: Shapes of states that are not vectors of units, without the batch.
        cell_options: Arguments of the cell that the class does not take.
        features: Width of its inputs.
        notes: Departures from the paper.
    """

    cls: str
    tensors: dict[str, list[str]]
    options: dict[str, Any] = field(default_factory=dict)
    read: Callable[[Any], tuple[Any, tuple[Any, ...]]] | None = None
    step: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    cell_options: dict[str, Any] = field(default_factory=dict)
    features: int = FEATURES
    notes: str = "biases of the two sides are summed; those of the recurrent side are zero here"


def _one(result: Any) -> tuple[Any, tuple[Any, ...]]:
    return result, (result,)


def _two(result: Any) -> tuple[Any, tuple[Any, ...]]:
    return result[0], tuple(result)


def _own_output(result: Any) -> tuple[Any, tuple[Any, ...]]:
    return result[0], (result[1],)


def _controlled(result: Any) -> tuple[Any, tuple[Any, ...]]:
    output, states = result
    return output, tuple(states)


def _delayed(module: Any, x: Any, states: Any) -> tuple[Any, Any]:
    """Advance tauGRU, whose layer keeps the states before."""
    h, past = states
    new = module(x, h, past[:, 0])
    return new, (new, torch.cat([past[:, 1:], h[:, None]], dim=1))


def _typed_gru(module: Any, x: Any, states: Any) -> tuple[Any, Any]:
    h, before = module(x, (states[0], states[1][:, 0]))
    return h, (h, before[:, None])


def _typed_lstm(module: Any, x: Any, states: Any) -> tuple[Any, Any]:
    h, (c, before) = module(x, (states[0], states[1][:, 0]))
    return h, (c, before[:, None])


def _gates(names: str, letter: str) -> list[str]:
    return [f"{letter}_{name}" for name in names]


WITNESSES = {
    "nbrc": Witness(
        "NBRCell",
        {
            "weight_ih": ["W_a", "W_c", "W"],
            "weight_hh": ["U_a", "U_c"],
            "bias_ih": ["b_a", "b_c", "b"],
        },
    ),
    "atr": Witness(
        "ATRCell", {"weight_ih": ["W"], "weight_hh": ["U"], "bias_ih": ["b"], "bias_hh": ["b_q"]}
    ),
    "cfn": Witness(
        "CFNCell",
        {
            "weight_ih": ["W_t", "W_e", "W"],
            "weight_hh": ["U_t", "U_e"],
            "bias_ih": ["b_t", "b_e", "b"],
        },
    ),
    "cornn": Witness(
        "coRNNCell",
        {"weight_ih": ["W"], "weight_hh": ["U"], "weight_ch": ["V"], "bias_ih": ["b"]},
        {"dt": 0.25, "gamma": 1.5, "epsilon": 0.75},
        read=_two,
    ),
    "intersection_rnn": Witness(
        "IntersectionRNNCell",
        {
            "weight_ih": _gates("yhpq", "W"),
            "weight_hh": _gates("yhpq", "U"),
            "bias_ih": _gates("yhpq", "b"),
        },
        read=_own_output,
        features=UNITS,  # it takes no other
    ),
    "unicornn": Witness(
        "UnICORNNCell",
        {"weight_ih": ["W"], "weight_hh": ["u"], "weight_ch": ["k"], "bias_ih": ["b"]},
        {"dt": 0.25, "alpha": 0.75},
        read=_two,
    ),
    "lightru": Witness(
        "LightRUCell", {"weight_ih": ["W", "W_f"], "weight_hh": ["U_f"], "bias_ih": ["b", "b_f"]}
    ),
    "mc_lstm": Witness(
        "MCLSTMCell",
        {
            "weight_ih": _gates("fiomn", "W"),
            "weight_hh": _gates("fiomn", "V"),
            "bias_ih": _gates("fiomn", "b"),
        },
        read=_controlled,
    ),
    "minimal_rnn": Witness(
        "MinimalRNNCell",
        {
            "weight_ih": ["W_z"],
            "weight_hh": ["U_h"],
            "weight_mm": ["U_z"],
            "bias_ih": ["b_z"],
            "bias_hh": ["b_u"],
        },
        notes="",
    ),
    "multiplicative_lstm": Witness(
        "MultiplicativeLSTMCell",
        {
            "weight_ih": _gates("mifgo", "W"),
            "weight_hh": ["U_m"],
            "weight_mh": _gates("ifgo", "V"),
            "bias_mh": _gates("ifgo", "b"),
        },
        read=_two,
        notes="the biases of the intermediate state are zero here",
    ),
    "mut1": Witness(
        "MUT1Cell",
        {
            "weight_ih": ["W_z", "W_r", "W"],
            "weight_hh": ["U_r", "U"],
            "bias_ih": ["b_z", "b_r", "0"],
            "bias_hh": ["0", "b"],
        },
    ),
    "mut2": Witness(
        "MUT2Cell",
        {
            "weight_ih": ["W_z", "W_r", "W"],
            "weight_hh": ["U_z", "U_r", "U"],
            "bias_ih": ["b_z", "b_r", "b"],
        },
    ),
    "mut3": Witness(
        "MUT3Cell",
        {
            "weight_ih": ["W_z", "W_r", "W"],
            "weight_hh": ["U_z", "U_r", "U"],
            "bias_ih": ["b_z", "b_r", "b"],
        },
    ),
    "ran": Witness(
        "RANCell",
        {
            "weight_ih": ["W_c", "W_i", "W_f"],
            "weight_hh": ["U_i", "U_f"],
            "bias_ih": ["b_i", "b_f"],
        },
        read=_two,
    ),
    "residual_lstm": Witness(
        "ResLSTMCell",
        {
            "weight_ih": _gates("ifgo", "W"),
            "weight_hh": _gates("ifgo", "U"),
            "weight_ph": _gates("ifo", "p"),
            "weight_proj": ["P"],
            "weight_res": ["R"],
            "bias_ih": _gates("ifgo", "b"),
        },
        read=_two,
    ),
    "sgrn": Witness("SGRNCell", {"weight_ih": ["W"], "weight_hh": ["U"], "bias_ih": ["b"]}),
    "sgu": Witness(
        "SGUCell",
        {
            "weight_ih": ["W_g", "W_z"],
            "weight_hh": ["U_g", "U_z"],
            "bias_ih": ["b_x", "b_z"],
            "bias_hh": ["b_g", "0"],
        },
    ),
    "dsgu": Witness(
        "DSGUCell",
        {
            "weight_ih": ["W_g", "W_z"],
            "weight_hh": ["U_g", "U_z"],
            "weight_ho": ["V"],
            "bias_ih": ["b_x", "b_z"],
            "bias_hh": ["b_g", "0"],
        },
    ),
    "star": Witness(
        "STARCell", {"weight_ih": ["W_z", "W_k"], "weight_hh": ["U_k"], "bias_ih": ["b_z", "b_k"]}
    ),
    "t_rnn": Witness("TRNNCell", {"weight_ih": ["W", "V"], "bias_ih": ["b", "b_f"]}),
    "antisymmetric_rnn": Witness(
        "AntisymmetricRNNCell",
        {"weight_ih": ["W"], "weight_hh": ["U"], "bias_ih": ["b"]},
        {"epsilon": 0.5, "gamma": 0.25},
    ),
    "gated_antisymmetric_rnn": Witness(
        "GatedAntisymmetricRNNCell",
        {"weight_ih": ["W_z", "W_n"], "weight_hh": ["U"], "bias_ih": ["b_z", "b_n"]},
        {"epsilon": 0.5, "gamma": 0.25},
    ),
    "miru1": Witness(
        "MiRU1Cell",
        {"weight_ih": ["W_r", "W"], "weight_hh": ["U_r", "U"], "bias_ih": ["b_r", "b"]},
        {"update_coefficient": 0.375},
    ),
    "miru2": Witness(
        "MiRU2Cell",
        {"weight_ih": ["W"], "weight_hh": ["U"], "bias_ih": ["b"]},
        {"update_coefficient": 0.375, "reset_coefficient": 0.625},
    ),
    "tau_gru": Witness(
        "tauGRUCell",
        {
            "weight_ih": _gates("uzga", "W"),
            "weight_hh": _gates("uzga", "U"),
            "bias_ih": _gates("uzga", "b"),
        },
        step=_delayed,
        shapes={"past": (2, UNITS)},
        cell_options={"delay": 2},
        notes="the biases of the recurrent side are zero here. past: "
        "the delay line, oldest first, kept outside of the library's cell",
    ),
    "t_gru": Witness(
        "TGRUCell",
        {
            "weight_ih": _gates("zfo", "W"),
            "weight_hh": _gates("zfo", "V"),
            "bias_ih": _gates("zfo", "b"),
        },
        step=_typed_gru,
        shapes={"x_before": (1, FEATURES)},
    ),
    "t_lstm": Witness(
        "TLSTMCell",
        {
            "weight_ih": _gates("zfo", "W"),
            "weight_hh": _gates("zfo", "V"),
            "bias_ih": _gates("zfo", "b"),
        },
        step=_typed_lstm,
        shapes={"x_before": (1, FEATURES)},
    ),
    "wmc_lstm": Witness(
        "WMCLSTMCell",
        {
            "weight_ih": _gates("ifgo", "W"),
            "weight_hh": _gates("ifgo", "U"),
            "weight_mh": _gates("ifo", "V"),
            "bias_ih": _gates("ifgo", "b"),
            "bias_mh": _gates("ifo", "d"),
        },
        read=_two,
    ),
}


def freeze(name: str, witness: Witness) -> dict[str, Any]:
    """Compute one cell with torchrecurrent, write its file, and return its entry."""
    rng = np.random.default_rng(sum(map(ord, name)))
    registered, alias = named(name)
    features = witness.features
    options = witness.options
    chosen = {**alias, **options, **witness.cell_options}
    cell = registered.cls(UNITS, **chosen, dtype="float64")
    cell.build((None, features))
    letters = {
        key: rng.normal(size=value.shape) * 0.7 for key, value in export_weights(cell).items()
    }
    module = getattr(torchrecurrent, witness.cls)(features, UNITS, **options).double()
    used: set[str] = set()
    with torch.no_grad():
        for key, tensor in module.named_parameters():
            tensor.zero_()
            if key not in witness.tensors:
                continue
            blocks = witness.tensors[key]
            size = len(tensor) // len(blocks)
            parts = [
                np.zeros((size, *tensor.shape[1:])) if b == "0" else letters[b].T for b in blocks
            ]
            used |= {b for b in blocks if b != "0"}
            tensor.copy_(torch.tensor(np.concatenate(parts)).reshape(tensor.shape))
    assert used == set(letters), (name, used ^ set(letters))  # noqa: S101
    names = registered.spec.states
    x = rng.normal(size=(BATCH, TIME, features))
    states = [rng.normal(size=(BATCH, *witness.shapes.get(n, (UNITS,)))) for n in names]
    arrays = {"x": x, **{f"state0.{n}": s for n, s in zip(names, states, strict=True)}}
    read = witness.read or _one
    step = witness.step or (lambda module, x, now: read(module(x, now if len(now) > 1 else now[0])))
    now: Any = tuple(torch.tensor(s) for s in states)
    outputs = []
    with torch.no_grad():
        for t in range(TIME):
            output, now = step(module, torch.tensor(x[:, t]), now)
            outputs.append(output.numpy())
    arrays["y"] = np.stack(outputs, axis=1)
    arrays |= {f"stateT.{n}": s.numpy() for n, s in zip(names, now, strict=True)}
    arrays |= {f"w.{key}": value for key, value in letters.items()}
    entry = {
        "cell": name,
        "file": f"{name}.npz",
        "library": "torchrecurrent",
        "version": importlib.metadata.version("torchrecurrent"),
        "class": f"torchrecurrent.{witness.cls}",
        "dtype": "float64",
        "equation": [line.rstrip() for line in _lines(registered.cls)],
        "states": list(names),
        "output": "y" if own_output(witness) else names[0],
        "initial_state": "random",
        "hyper": {**options, **witness.cell_options},
        "notes": witness.notes,
        "shapes": {key: list(value.shape) for key, value in arrays.items()},
        "dtypes": {key: str(value.dtype) for key, value in arrays.items()},
    }
    entry |= _differences(registered.spec, cell.get_config(), letters, x, states, arrays)
    np.savez_compressed(FOLDER / entry["file"], **arrays)
    return entry


def own_output(witness: Witness) -> bool:
    """Say whether what a class gives out is none of its states."""
    return witness.read in (_own_output, _controlled) or witness.step is _typed_lstm


def named(name: str) -> tuple[Any, dict[str, Any]]:
    """Return the registered cell of a name or of an alias, and the arguments that this stands for.

    Args:
        name: Of a cell, or an alias in a spec.
    """
    for registered in map(cellkit.get, cellkit.list_cells()):
        if registered.spec is not None and name in registered.spec.aliases:
            return registered, dict(registered.spec.aliases[name])
    return cellkit.get(name), {}


def _lines(cls: Any) -> list[str]:
    """Return the lines of a cell's equations: its text, or the block of its docstring."""
    text = getattr(cls, "equations", None) or cls.__doc__.split("```")[1]
    return [line.strip() for line in text.strip().splitlines()]


def _differences(
    spec: Any, config: Any, letters: Any, x: Any, states: Any, arrays: Any
) -> dict[str, Any]:
    """Compare what was computed with the cell's reference."""
    outputs = []
    for t in range(TIME):
        output, states = spec.reference(letters, x[:, t], states, config)
        outputs.append(output)
    have = {"y": np.stack(outputs, axis=1)}
    have |= {f"stateT.{n}": s for n, s in zip(spec.states, states, strict=True)}
    found = {key: float(np.abs(value - arrays[key]).max()) for key, value in have.items()}
    relative = {key: found[key] / float(np.abs(arrays[key]).max()) for key in found}
    return {
        "max_abs_diff": max(found.values()),
        "max_rel_diff": max(relative.values()),
        "diff_per_key": found,
    }


def main() -> None:
    """Freeze every witness, or those that are named, and write the manifest anew."""
    only = sys.argv[1:]
    keras.config.set_floatx("float64")
    path = FOLDER / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    entries = {entry["cell"]: entry for entry in manifest["cells"]}
    for name, witness in WITNESSES.items():
        if only and name not in only:
            continue
        entries[name] = freeze(name, witness)
        print(f"{name:<22} {entries[name]['max_abs_diff']:.1e}")
    manifest["cells"] = list(entries.values())
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
