"""What `import csv` refuses: each with the file, the line and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from elsewhere import SIZES, Training, wide, write_csv
from fixtures_cli import Call, Outcome

from galaxy_mlflow.history_names import Names
from galaxy_mlflow.home import Home

HEADER = "split,arm,epoch,test_accuracy"
GOOD = f"{HEADER}\n0,a,0,0.5\n0,a,1,0.6\n"


@pytest.fixture(autouse=True)
def shared_database(database_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(database_home.path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{GOOD}0,a,1,0.7\n", "line 4, column test_accuracy: test_accuracy of split-000/a, epoch "
         "1, is there already: {file}, line 3"),
        (f"{GOOD}0,a,3,0.7\n", "line 4, column test_accuracy: test_accuracy of split-000/a has no "
         "value for epoch 2 of 0 to 3"),
        (f"{HEADER}\n0,a,1,0.5\n", "give --first-epoch 1"),
        (f"{GOOD}0,a,2,nan\n", "line 4, column test_accuracy: test_accuracy is nan"),
        (f"{GOOD}0,a,2,high\n", "line 4, column test_accuracy: 'high' found, a number expected"),
        (f"{GOOD}0,a,2,60.5\n", "is 60.5, a fraction from 0 to 1 expected: is it in percent? Then "
         "give --percent"),
        (f"{GOOD}0,a,2,-1\n", "is -1, a fraction from 0 to 1 expected"),
        (f"{GOOD}0.5,a,2,0.5\n", "line 4, column split: '0.5' found, a whole number, 0 or more"),
        (f"{GOOD}0,a,x,0.5\n", "line 4, column epoch: 'x' found"),
        (f"{GOOD}0,a b,2,0.5\n", "arm 'a b': use letters, digits"),
        (f"{GOOD}0,a,2\n", "line 4: row has 3 of 4 columns"),
        (f"{HEADER},acurracy_test\n0,a,0,1,1\n", "line 1: not known as a metric: 'acurracy_test' "
         "(did you mean 'test_accuracy'?). Say what it is, as in --map 'acurracy_test=test_accu"),
        (f"{HEADER},test_acc\n0,a,0,1,1\n", "are both test_accuracy: leave one of them out"),
        ("split,epoch,test_accuracy\n0,0,1\n", "line 1: no column arm: add it"),
        ("split,arm,test_accuracy\n0,a,1\n", "line 1: no column epoch"),
        ("split,arm,epoch\n0,a,1\n", "line 1: no column of a metric"),
        ("split,arm,epoch,val_acc\n0,a,0,1\n", "split-000/a: no test_accuracy, which everything "
         "is compared by; found: val_accuracy"),
        (f"{HEADER},metric,value\n0,a,0,1,x,1\n", "columns metric and value, and test_accuracy"),
        ("split,arm,epoch,metric,value\n0,a,0,tset_acc,1\n", "column metric: not known as a "
         "metric: 'tset_acc' (did you mean 'test_accuracy'?)"),
        ("split;arm;epoch;test_accuracy\n0;a;0;1\n", "line 1: its columns must be separated by"),
        (HEADER, "the source holds no value"),
        ("", "is empty"),
        (f"{HEADER},n_train\n0,a,0,1,8\n0,a,1,1,9\n", "n_train of split-000/a is 9 here and 8"),
        (f"{HEADER},n_train\n0,a,0,1,0\n", "column n_train: 0 found, a whole number expected"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused(text: str, message: str, call: Call, tmp_path: Path) -> None:
    file = tmp_path / "theirs.csv"
    file.write_text(text)
    done = call("import", "csv", str(file), "--study", "wrong", *SIZES)
    assert_refused(done, message.format(file=file))
    assert str(file) in done.err or "split-000/a" in done.err or "no value" in done.err


def assert_refused(done: Outcome, message: str) -> None:
    assert done.code == 2
    assert message in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--map", "x"), "--map x: expected THEIRS=OURS"),
        (("--map", "x=test_acuracy"), "'test_acuracy' is none of our names (did you mean "
         "'test_accuracy'?)"),
        (("--arms", "a,c"), "--arms: no arm 'c'; the source has a"),
        (("--first-epoch", "1"), "line 2, column test_accuracy: epoch 0 is before the first, 1"),
        (("--pattern", "{what}/x"), "--pattern {what}/x: expected {arm} and {split}"),
        (("--pattern", "{arm}.txt"), "no file is as --pattern {arm}.txt has it; there are theirs"),
        (("--pattern", "{arm}.csv"), "arm is a column, and stands in --pattern too"),
        (("--study", "no/such name"), "--study no/such name: use letters"),
        (("--percent", "--map", "test_accuracy=train_accuracy"), "no test_accuracy"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(
    options: tuple[str, ...], message: str, call: Call, tmp_path: Path
) -> None:
    file = tmp_path / "theirs.csv"
    file.write_text(GOOD)
    done = call("import", "csv", str(file), "--study", "wrong", *SIZES, *options)
    assert_refused(done, message)


def test_a_source_that_is_not_there_or_empty_is_refused(call: Call, tmp_path: Path) -> None:
    words = ("--study", "wrong", *SIZES)
    assert_refused(call("import", "csv", str(tmp_path / "no"), *words), "no such file or folder")
    assert_refused(call("import", "csv", str(tmp_path), *words), "holds no .csv file")
    file = write_csv(tmp_path / "theirs.csv", wide(Training.of()))
    done = call("import", "csv", str(file), "--study", "wrong", "--n-train", "5")
    assert_refused(done, "split-000/pretrained: give --n-test, the images of")


def test_names_can_be_mapped_and_left_out(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "theirs.csv"
    file.write_text("Seed,model,Step,Top-1,grad/norm\n3,a,0,50,9\n3,b,0,60,9\n")
    maps = ("Seed=split", "model=arm", "Step=epoch", "Top-1=test_accuracy")
    words = [word for pair in maps for word in ("--map", pair)]
    done = call("import", "csv", str(file), "--study", "mapped", "--percent", *SIZES, *words,
                "--ignore", "grad/*")  # fmt: skip
    assert done.code == 0, done.err
    assert "mapped: 2 runs written" in done.out


def test_a_name_of_ours_can_be_left_out_but_no_column_by_accident() -> None:
    one_left = Names.of((), ("train_loss",)).known(("train_loss", "loss"), "here")
    assert one_left == {"loss": "train_loss"}
    none_left = Names.of((), ("*",)).known(("split", "epoch", "test_accuracy", "loss"), "here")
    assert none_left == {"split": "split", "epoch": "epoch"}
