import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tcaf.data.classes import ClassSet
from tcaf.errors import TCAFError
from tcaf.evaluation.decisions import FILE, ClipDecisions, read_decisions, write_decisions
from tcaf.evaluation.gzsl import Decisions, score

# The five clips of test_gzsl.py. The names are in no order, so that an index is no rank.
CLASSES = ClassSet(("walking", "barking", "sêwing", "ça va"), frozenset({"walking", "barking"}))
DECISIONS = Decisions(
    labels=np.array([0, 0, 1, 2, 3]),
    is_seen=np.array([True, True, True, False, False]),
    # pi / 10 has no short decimal; the last bit counts.
    margin=np.array([1.0, -1.0, 5.0, np.pi / 10, 7.0]),
    nearest_seen=np.array([0, 0, 1, 0, 1]),
    nearest_unseen=np.array([2, 2, 2, 2, 2]),
    num_classes=4,
)
FIVE = ClipDecisions(("e", "d", "c", "ü", "a"), CLASSES, DECISIONS, 0.8)


def assert_equal(found, expected):
    assert (found.ids, found.classes, found.gamma) == (
        expected.ids,
        expected.classes,
        expected.gamma,
    )
    for field in fields(Decisions):
        mine, theirs = (getattr(p.decisions, field.name) for p in (found, expected))
        if isinstance(theirs, np.ndarray):
            assert (mine.dtype, mine.tobytes()) == (theirs.dtype, theirs.tobytes()), field.name
        else:
            assert mine == theirs


@pytest.fixture
def file(tmp_path):
    path = tmp_path / FILE
    write_decisions(path, FIVE)
    return path


def test_five_clips_and_back(file):
    found = read_decisions(file)
    assert_equal(found, FIVE)
    # S = (1/2 + 1) / 2, U = (1 + 0) / 2, HM = 2 x 0.375 / 1.25
    result = found.result
    assert (result.seen, result.unseen, result.zsl, result.gamma) == (0.75, 0.5, 0.5, 0.8)
    assert result.harmonic_mean == pytest.approx(0.6)
    assert result.scores() == score(DECISIONS, gamma=0.8).scores()


def test_people_can_read_the_file(file):
    table = pq.read_table(file)
    assert table.to_pydict() == {
        "id": ["e", "d", "c", "ü", "a"],
        "class": ["walking", "walking", "barking", "sêwing", "ça va"],
        "seen": [True, True, True, False, False],
        # The second clip's margin is below gamma, and so is the fourth's.
        "predicted": ["walking", "sêwing", "barking", "sêwing", "barking"],
        "nearest_seen": ["walking", "walking", "barking", "walking", "barking"],
        "nearest_unseen": ["sêwing"] * 5,
        "margin": [1.0, -1.0, 5.0, np.pi / 10, 7.0],
    }
    for column in ("class", "predicted", "nearest_seen", "nearest_unseen"):
        assert pa.types.is_dictionary(table.schema.field(column).type)
    assert json.loads(table.schema.metadata[b"tcaf"]) == {
        "format": "tcaf-predictions",
        "version": 1,
        "classes": ["walking", "barking", "sêwing", "ça va"],
        "seen": ["barking", "walking"],
        "gamma": 0.8,
        "clips": 5,
    }


@pytest.mark.parametrize("seed", range(3))
def test_many_clips_and_back(tmp_path, seed):
    rng = np.random.default_rng(seed)
    num, labels = 1009, rng.integers(7, size=1009)
    classes = ClassSet(tuple("gfedcba"), frozenset("gec"))  # indices 0, 2 and 4
    is_seen = np.isin(labels, [0, 2, 4])
    decisions = Decisions(
        labels,
        is_seen,
        rng.normal(size=num),
        rng.choice([0, 2, 4], size=num),
        rng.choice([1, 3, 5, 6], size=num),
        7,
    )
    ids = tuple(f"clip {i}" for i in rng.permutation(num))
    write_decisions(tmp_path / FILE, ClipDecisions(ids, classes, decisions, -0.1))
    assert_equal(read_decisions(tmp_path / FILE), ClipDecisions(ids, classes, decisions, -0.1))


def test_a_folder_whose_name_looks_like_a_partition(tmp_path):
    folder = tmp_path / "seed=3"
    folder.mkdir()
    write_decisions(folder / FILE, FIVE)
    assert_equal(read_decisions(folder / FILE), FIVE)


def test_written_whole_or_not_at_all(file, monkeypatch):
    def half(table, where, **_):
        Path(where).write_bytes(b"PAR1")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(OSError, match="disk full"):
        write_decisions(file, replace(FIVE, gamma=0.4))
    assert_equal(read_decisions(file), FIVE)
    assert [path.name for path in file.parent.iterdir()] == [FILE]


def decisions(**changes):
    return {"decisions": replace(DECISIONS, **{k: np.array(v) for k, v in changes.items()})}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ()}, "predictions of no clips"),
        ({"ids": ("e", "d", "c", "e", "a")}, "an id is there twice"),
        ({"ids": ("e", "d")}, "2 ids and 4 classes do not fit decisions for 5 clips among 4"),
        ({"gamma": float("nan")}, "gamma must be a finite number, got nan"),
        ({"classes": ClassSet.of("ab", "c")}, "5 ids and 3 classes do not fit"),
        ({"classes": ClassSet.of("abc", "d")}, "differ on which classes are seen"),
        (decisions(nearest_seen=[0, 0, 1, 0, 2]), "differ on which classes are seen"),
        (decisions(nearest_unseen=[2, 2, 2, 2, 1]), "differ on which classes are seen"),
        (decisions(is_seen=[True, True, True, True, False]), "differ on which classes are seen"),
        (decisions(labels=[0, 0, 1, 2, 4]), r"class indices must be in 0\.\.3"),
        (decisions(nearest_unseen=[2, 2, 2, 2, -1]), r"class indices must be in 0\.\.3"),
        (decisions(margin=[0.0, 0.0, 0.0, np.inf, 0.0]), "a margin is NaN or infinite"),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    with pytest.raises(TCAFError, match=message):
        replace(FIVE, **changes)


def header(**changes):
    """Changes the JSON of the metadata."""

    def change(table):
        value = {**json.loads(table.schema.metadata[b"tcaf"]), **changes}
        return table.replace_schema_metadata({"tcaf": json.dumps(value)})

    return change


def column(name, values):
    def change(table):
        return table.set_column(table.schema.get_field_index(name), name, pa.array(values))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.replace_schema_metadata(None), "found another Parquet file"),
        (header(format="tcaf-parquet"), "found another Parquet file"),
        (lambda t: t.replace_schema_metadata({"tcaf": "7"}), "found another Parquet file"),
        (lambda t: t.replace_schema_metadata({"tcaf": "{"}), "found a damaged file"),
        (header(version=2), "has format version 2, this tcaf reads version 1; train the run"),
        (header(gamma=1.0), None),  # No margin lies between: as good as before.
        (header(gamma=1.5), "what is predicted does not follow from margin and gamma"),
        (header(gamma=None), "found a damaged file"),
        (header(classes=None), "found a damaged file"),
        (header(classes=["walking", "sêwing"]), "seen classes that are not in the class list"),
        (header(seen=["walking"]), "differ on which classes are seen"),
        (header(classes=["walking", "barking", "x", "ça va"]), "class is empty or no candidate"),
        (lambda table: table.drop_columns(["margin"]), r"found a damaged file \(.*margin"),
        (lambda table: table.slice(0, 4), "4 rows for 5 clips"),
        (lambda t: header(clips=0)(t.slice(0, 0)), "predictions of no clips"),
        (column("margin", [1.0, -1.0, 5.0, 0.3, None]), "margin is empty for 1 clips"),
        (column("margin", list("abcde")), "found a damaged file"),
        (column("margin", [[1.0]] * 5), "found a damaged file"),
        (column("seen", [True, False, True, False, False]), "differ on which classes are seen"),
        (column("id", list("aacde")), "an id is there twice"),
        (column("nearest_seen", ["walking"] * 4 + ["ça va"]), "differ on which classes are seen"),
        (column("predicted", ["walking"] * 5), "what is predicted does not follow"),
    ],
)
def test_files_that_others_made(file, change, message):
    pq.write_table(change(pq.read_table(file)), file)
    if message is None:
        assert read_decisions(file).result.gamma == 1.0
        return
    with pytest.raises(TCAFError, match=message) as error:
        read_decisions(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_names_need_no_dictionary(file):
    table = pq.read_table(file)
    plain = [(name, pa.string()) for name in ("class", "predicted", "nearest_seen")]
    for name, type_ in plain:
        table = column(name, table.column(name).cast(type_).to_pylist())(table)
    pq.write_table(table, file)
    assert_equal(read_decisions(file), FIVE)


def test_no_file(tmp_path):
    with pytest.raises(TCAFError, match=r"expected predictions at .*, found nothing"):
        read_decisions(tmp_path / FILE)
    with pytest.raises(TCAFError, match="expected predictions at"):
        read_decisions(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"id,class\na,b\n", b"PAR1" * 100])
def test_no_parquet(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(TCAFError, match="found a damaged file"):
        read_decisions(tmp_path / FILE)


def test_damage(file):
    whole = file.read_bytes()
    for end in range(0, len(whole), 97):
        file.write_bytes(whole[:end])
        with pytest.raises(TCAFError, match="found a damaged file"):
            read_decisions(file)
    # A margin that changed in one bit: nothing but the checksum of its page can tell.
    place = whole.index(np.array([np.pi / 10]).tobytes())
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(TCAFError, match="found a damaged file"):
        read_decisions(file)
