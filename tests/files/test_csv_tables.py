"""The one reader of CSV tables."""

import pytest

from tcaf.errors import TCAFError
from tcaf.files.csv_tables import csv_rows


def table(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def cells(tmp_path, content, *columns, **how):
    encoding = how.pop("encoding", "utf-8")
    return [row.cells for row in csv_rows(table(tmp_path, content, encoding), columns, **how)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(
    "content",
    [
        "file,class\na, Köln \n",
        "file,class\r\na,Köln\r\n",
        " File , CLASS\n a,Köln\n",
        '"file","class"\n"a","Köln"',
        "file;class\na;Köln\n",
        "file\tclass\na\tKöln\n",
        "sep=;\nfile;class\na;Köln\n",
        "sep=|\nfile|class\na|Köln\n",
        # Spreadsheets leave rows and columns behind that somebody has emptied.
        "\n,,\nfile,class,,\n , ,,\na,Köln,,\n\n",
    ],
)
def test_what_people_write_is_read(tmp_path, content, encoding):
    rows = cells(tmp_path, content, "file", "class", encoding=encoding)
    assert rows == [{"file": "a", "class": "Köln"}]


def test_a_row_knows_its_line(tmp_path):
    path = table(tmp_path, 'a,b\n1,2\n\n"x\ny",4\n5,6\n')
    # The third row begins on line 4 and ends on line 5.
    assert [row.where for row in csv_rows(path, ("a", "b"))] == [
        f"{path}, line {line}" for line in (2, 4, 6)
    ]
    path = table(tmp_path, "sep=;\na;b\n1;2\n")
    assert [row.where for row in csv_rows(path, ("a", "b"))] == [f"{path}, line 3"]


def test_optional_columns_and_those_of_no_concern(tmp_path):
    content = "x,a,y\n1,2,3\n"
    assert cells(tmp_path, content, "a", optional=("b",), others="allowed") == [
        {"b": "", "x": "1", "a": "2", "y": "3"}
    ]
    # Such a table keeps its own order of columns.
    assert list(cells(tmp_path, content, others="allowed")[0]) == ["x", "a", "y"]
    assert cells(tmp_path, "a,b\n1,\n", "a", "b", filled=False) == [{"a": "1", "b": ""}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"t\.csv: expected the columns file, class, found none"),
        (
            "file,clas\na,b\n",
            "expected the columns file, class, found file, clas; did you mean 'clas'",
        ),
        ("file,class\n", "expected rows of file and class, found none"),
        ("file,class\n , \n", "expected rows of file and class, found none"),
        (
            "file,class,pat\na,b,c\n",
            "no column 'pat' is known; there may be file, class, part; did you mean 'part'",
        ),
        ("file,class,,pat\na,b,,c\n", "no column '' is known"),
        ("file,class,File\na,b,c\n", "the column 'file' is there twice"),
        (
            "file,class\na,b\nc1.mp4,dog, barking\n",
            "line 3: expected 2 cells .* found 3: 'c1.mp4', ",
        ),
        ("file,class\na,b\nc\n", "line 3: expected 2 cells .* found 1: 'c'"),
        ("file,class,\na,b,c\n", "line 2: expected 2 cells .* found 3"),
        ("file,class\na,b,\n", "line 2: expected 2 cells .* found 3"),
        ("file,class\na,\n", "line 2: expected a class, found none in 'a', ''"),
        ('file,class\na,b\n"c,d\ne,f\n', "line 3: damaged CSV"),
        ('file,class\n"a"b,c\n', "line 2: damaged CSV"),
        ("file,class\na,b\n".encode("utf-16"), "expected CSV in UTF-8"),
        ("file,class\na,\u00f6\n".encode("latin-1"), "expected CSV in UTF-8"),
    ],
)
def test_damaged_tables(tmp_path, content, message):
    with pytest.raises(TCAFError, match=message) as error:
        cells(tmp_path, content, "file", "class", optional=("part",))
    assert str(tmp_path / "t.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_no_table(tmp_path):
    with pytest.raises(TCAFError, match=r"expected a CSV table at .*gone\.csv, found none"):
        csv_rows(tmp_path / "gone.csv")
    with pytest.raises(TCAFError, match=r"cannot read .*: Is a directory"):
        csv_rows(tmp_path)
