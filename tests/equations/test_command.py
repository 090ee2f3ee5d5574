"""`cellkit define`, and `cellkit new` with equations."""

import json

import pytest

from cellkit.cli import main
from cellkit.equations.command import class_name

pytestmark = pytest.mark.one_backend

LIGRU = """
z  = s(W_z @ x + U_z @ h + b_z)          update "gate" \\ with a \"\"\"remark\"\"\"
n  = relu(W_n @ x + U_n @ h + b_n)
h' = z * h + (1 - z) * n
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "li_gru.txt"
    path.write_text(LIGRU, encoding="utf-8")
    return path


def test_define_says_what_was_understood(file, capsys):
    assert main(["define", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("LiGruCell\n")
    assert "2 * features * units + 2 * units * units + 2 * units parameters" in said
    row = next(line for line in said.splitlines() if "U_n" in line)
    assert row.split() == ["U_n", "recurrent_kernel", "(units,", "units)", "recurrent_kernel,"] + [
        "block",
        "1",
    ]


def test_define_says_nothing_where_it_is_told_so(file, capsys):
    assert main(["define", "-q", str(file)]) == 0
    assert capsys.readouterr().out == ""
    file.write_text("h' = tanh(W @ x", encoding="utf-8")
    assert main(["define", "-q", str(file)]) == 64
    assert "A bracket is never closed." in capsys.readouterr().err


def test_define_prints_json(tmp_path, capsys):
    file = tmp_path / "leaky.txt"
    file.write_text("h' = leaky * h + P @ (s(W @ x) * dt)", encoding="utf-8")
    words = ["--inputs", "x,dt", "--size", "P=width", "--number", "leaky=0.5", "--states", "h"]
    assert main(["define", str(file), "--json", "--name", "My", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == {"x": "features", "dt": "1"}
    assert (found["states"], found["numbers"]) == ({"h": "width"}, {"leaky": 0.5})
    assert found["linear"] is True and found["sizes"] == ["width"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "P"], "--size takes"),
        (["--number", "a=b"], "--number takes"),
        (["--states", "q"], "`states`"),
        (["--inputs", "x,dt"], "never used"),
    ],
)
def test_wrong_options_of_define(file, capsys, words, says):
    assert main(["define", str(file), *words]) == 64
    assert says in capsys.readouterr().err


def test_wrong_equations_are_shown_with_their_place(tmp_path, capsys):
    file = tmp_path / "wrong.txt"
    file.write_text("z = s(W @ x)\nh' = foo(z)", encoding="utf-8")
    assert main(["define", str(file)]) == 64
    assert "line 2\n    h' = foo(z)\n         ^^^" in capsys.readouterr().err
    assert main(["define", str(tmp_path / "none.txt")]) == 64
    assert "can't be read" in capsys.readouterr().err
    assert (
        main(["new", "wrong_cell", "--equations", str(file), "--path", str(tmp_path / "p")]) == 64
    )
    assert not (tmp_path / "p").exists()


def test_define_proves_the_cell(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["define", str(file), "--conform", "--backend", "torch"]
    assert main(words) == 0
    assert "Conformant" in capsys.readouterr().out


def test_new_writes_a_project_around_equations(file, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    assert main(["new", "li_gru_of_mine", "--equations", str(file), "--path", str(folder)]) == 0
    monkeypatch.syspath_prepend(folder)
    import li_gru_of_mine

    cls = li_gru_of_mine.LiGruOfMineCell
    assert cls.equations.split() == LIGRU.split()
    assert set(cls(4).analysis.parameters) == {"W_z", "U_z", "b_z", "W_n", "U_n", "b_n"}
    assert "conformance_tests" in (folder / "tests" / "test_li_gru_of_mine.py").read_text()
    assert "test_shapes" not in (folder / "tests" / "test_li_gru_of_mine.py").read_text()


@pytest.mark.parametrize(
    ("stem", "name"),
    [("li_gru", "LiGruCell"), ("my-cell", "MyCell"), ("cell", "Cell"), ("3d", "MyCell")],
)
def test_names_of_classes(tmp_path, stem, name):
    assert class_name(tmp_path / f"{stem}.txt") == name
