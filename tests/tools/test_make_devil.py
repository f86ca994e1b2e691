"""make_devil.py on a dictionary of four entries, and on the real one when it has been fetched."""

import gzip
import hashlib
import json

import pytest

import make_devil

ENTRIES = {
    "abridge": "ABRIDGE, v.t.  To shorten.\n\n  When in the course of human events\n",
    "absurdity": "ABSURDITY, n.  A statement or belief manifestly\n  inconsistent with one's own opinion -- _always_.\n",
    "once": "ONCE, adv.  Enough.\n",
    "ode": "ODE, n.  As the poet says:\n\n  O muse!\n",
}


def base64(number):
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 64)
        digits = make_devil.BASE64[digit] + digits
    return digits


@pytest.fixture
def dictionary(tmp_path):
    """A dictd dictionary on disk: 100 bytes of preface, then the entries, one of them under two words."""
    body, lines = "x" * 100, ["00databaseinfo\tA\tBk"]
    for word, text in ENTRIES.items():
        line = f"\t{base64(len(body))}\t{base64(len(text))}"
        lines += [word + line, "shorten" + line] if word == "abridge" else [word + line]
        body += text
    (tmp_path / "devil.index").write_text("\n".join(lines) + "\n")
    (tmp_path / "devil.dict.dz").write_bytes(gzip.compress(body.encode()))
    return str(tmp_path / "devil")


def rows(folder):
    return [
        json.loads(line) for part in ("train", "valid") for line in (folder / f"{part}.jsonl").read_text().splitlines()
    ]


def test_each_entry_becomes_one_question_and_its_first_paragraph(dictionary, tmp_path):
    assert make_devil.main([str(tmp_path / "out"), "--dict", dictionary, "--valid", "1"]) == 0
    answers = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows(tmp_path / "out")}
    assert answers == {
        "Define abridge.": "To shorten.",
        "Define absurdity.": "A statement or belief manifestly inconsistent with one's own opinion - always.",
        "Define once.": "Enough.",
    }
    assert len(rows(tmp_path / "out")) == 3


@pytest.mark.parametrize("valid", ["0", "3", "-1"])
def test_a_split_that_leaves_one_side_empty_is_refused(dictionary, tmp_path, valid, capsys):
    assert make_devil.main([str(tmp_path / "out"), "--dict", dictionary, "--valid", valid]) == 65
    assert f"--valid {valid}: must lie between 1 and 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_dictionary_names_the_remedy(tmp_path, capsys):
    assert make_devil.main([str(tmp_path / "out"), "--dict", str(tmp_path / "none")]) == 66
    assert "fetch_deb.sh dict-devil" in capsys.readouterr().err


def test_a_cut_off_dictionary_is_an_error(dictionary, tmp_path, capsys):
    path = tmp_path / "devil.dict.dz"
    path.write_bytes(path.read_bytes()[:-20])
    assert make_devil.main([str(tmp_path / "out"), "--dict", dictionary, "--valid", "1"]) == 65
    assert "not a dictd dictionary" in capsys.readouterr().err


def test_an_existing_folder_is_replaced_only_on_request(dictionary, tmp_path):
    command = [str(tmp_path / "out"), "--dict", dictionary, "--valid", "1"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("dear to me")
    assert make_devil.main(command) == 73
    assert (tmp_path / "out/mine.txt").exists()
    assert make_devil.main([*command, "--force"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.jsonl", "valid.jsonl"]


@pytest.mark.skipif(not make_devil.PACKAGED.with_suffix(".index").exists(), reason="run tools/fetch_deb.sh dict-devil")
def test_the_real_dictionary_gives_the_known_bytes(tmp_path):
    assert make_devil.main([str(tmp_path / "out")]) == 0
    digests = {
        name: hashlib.sha256((tmp_path / f"out/{name}.jsonl").read_bytes()).hexdigest()[:16]
        for name in ("train", "valid")
    }
    assert digests == {"train": "a7f2c203a5c8f607", "valid": "8a01a153ea6d265a"}
