"""Errors are one line that says what to do, whatever the input contained."""

from __future__ import annotations

from pathlib import Path

from asap_deploy.errors import MAX_TEXT, InputError, Refusal, suggestion


def test_the_path_of_the_file_comes_last():
    assert str(InputError("no joints; add some", file=Path("a/b.npz"))) == (
        "no joints; add some (file: a/b.npz)"
    )
    assert str(InputError("no joints")) == "no joints"


def test_line_breaks_controls_and_runs_of_spaces_become_one_space():
    odd = "a\nb\r\n\tc\x00\x1b[31m\u2028d    e\udcff"
    assert str(InputError(odd, file="x\ny")) == "a b c [31m d e (file: x y)"


def test_a_long_text_keeps_its_beginning_and_its_end():
    text = str(InputError("what is wrong " + "x" * 10_000_000 + " what to do", file="a.npz"))
    assert len(text) <= MAX_TEXT + len(" (file: a.npz)")
    assert text.startswith("what is wrong xxx") and text.endswith("x what to do (file: a.npz)")
    assert len(str(InputError("short", file="/" + "y" * 5000))) < 400


def test_an_error_about_an_input_is_a_value_error_and_a_refusal_is_not():
    assert issubclass(InputError, ValueError)
    assert not issubclass(Refusal, ValueError)


def test_a_suggestion_is_the_nearest_name_or_the_valid_ones():
    assert suggestion("left_nee", ["left_knee", "right_knee"]) == " (did you mean 'left_knee'?)"
    assert suggestion("zebra", ["a", "b"]) == " (valid: a, b)"
    many = [f"joint{k}" for k in range(30)]
    assert suggestion("zebra", many).endswith("joint11, ... (30 in all))")
    assert suggestion("zebra", []) == ""
    assert len(suggestion("k" * 1_000_000, ["m" * 1_000_000])) < 200
