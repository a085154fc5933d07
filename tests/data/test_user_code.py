"""A user's own Python by name: imported once, with what is wrong said in words."""

from pathlib import Path

import pytest

from openqwq.data import user_code
from openqwq.data.user_code import is_reference, load_object
from openqwq.types import OpenQwQError


@pytest.mark.parametrize(
    "name", ["a.py:f", "/x/y-z/a.py:Class.method", "pkg.module:f", "pkg:f"]
)
def test_these_names_are_python(name: str) -> None:
    assert is_reference(name)


@pytest.mark.parametrize(
    "name", ["math", "stage:taste", "model:a/b", "verifiers:gsm8k", "a.py:"]
)
def test_these_names_are_not_python(name: str) -> None:
    assert not is_reference(name)
    with pytest.raises(OpenQwQError, match=r"write file\.py:name"):
        load_object(name)


def test_a_file_is_imported_once_and_finds_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_rewards.py").write_text("WORD = 'yes'\n")
    (tmp_path / "rewards.py").write_text(
        "from dataclasses import dataclass\n"
        "from neighbour_of_rewards import WORD\n"
        "@dataclass\n"
        "class Box:\n    value: int = 1\n    def open(self): return WORD\n"
    )
    box = load_object(f"{tmp_path}/rewards.py:Box")
    assert box().open() == "yes"
    assert load_object(f"{tmp_path}/rewards.py:Box") is box
    assert load_object(f"{tmp_path}/rewards.py:Box.open") is box.open


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rewards.py").write_text(f"NAME = '{folder}'\n")
    found = [load_object(f"{tmp_path}/{folder}/rewards.py:NAME") for folder in ("a", "b")]
    assert found == ["a", "b"]


def test_an_installed_module_is_found_by_its_dotted_name() -> None:
    import json.decoder

    assert load_object("json.decoder:JSONDecoder") is json.decoder.JSONDecoder


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        ("def brevity(): pass", "brevty", r"has no 'brevty': did you mean 'brevity'\?"),
        ("x = 1\nimport nothing_such", "x", r"ModuleNotFoundError in line 2"),
        ("x = (", "x", r"SyntaxError in line 1"),
        ("raise SystemExit(1)", "x", r"SystemExit in line 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_line(
    tmp_path: Path, source: str, name: str, said: str
) -> None:
    (tmp_path / "rewards.py").write_text(source)
    with pytest.raises(OpenQwQError, match=rf"rewards\.py .*{said}"):
        load_object(f"{tmp_path}/rewards.py:{name}")


def test_an_import_that_hangs_says_which_file_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(user_code, "SLOW_IMPORT", 0.05)
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.5)\nx = 1\n")
    assert load_object(f"{tmp_path}/slow.py:x") == 1
    assert f"{tmp_path}/slow.py is still being imported" in capsys.readouterr().err


def test_missing_files_and_modules_are_named(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("")
    with pytest.raises(OpenQwQError, match=r"did you mean 'rewards\.py'\?"):
        load_object(f"{tmp_path}/reward.py:f")
    with pytest.raises(
        OpenQwQError, match=r"the module no_such_package\.x is not installed"
    ):
        load_object("no_such_package.x:f")


def test_a_file_of_the_same_name_elsewhere_is_meant_on_nodes_of_a_cluster_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rewards.py").write_text("def sign(): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_code, "_SHIPPED", [])
    with pytest.raises(OpenQwQError, match=r"folder/rewards\.py does not exist"):
        load_object("no/such/folder/rewards.py:sign")
    user_code.shipped_to(tmp_path)
    assert load_object("no/such/folder/rewards.py:sign").__name__ == "sign"
