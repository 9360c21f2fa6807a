import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tcaf.errors import TCAFError
from tcaf.files.atomic import (
    needing_room,
    new_folder,
    only_writer,
    parse_json,
    read_json,
    replacing,
    write_json,
    write_text,
)


class Boom(Exception):
    pass


def touch_and_fail(path, error=Boom):
    path.touch()
    raise error


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replacing_a_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        # Until the end everyone sees the old one.
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])
def test_replacing_fails(tmp_path, there, error):
    path = tmp_path / "a.txt"
    if there:
        path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        touch_and_fail(temporary, error)
    assert names(tmp_path) == (["a.txt"] if there else [])
    if there:
        assert path.read_text() == "old"


def test_replacing_and_nothing_written(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"


def test_text_and_json(tmp_path):
    value = {"name": "Kürbis\n", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "a thing") == value
    assert "Kürbis" in (tmp_path / "a.json").read_text(encoding="utf-8")
    write_text(tmp_path / "a.txt", "Kürbis\n")
    assert (tmp_path / "a.txt").read_bytes() == b"K\xc3\xbcrbis\n"
    assert names(tmp_path) == ["a.json", "a.txt"]


def test_json_that_cannot_be_written_leaves_the_old(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json", "a thing") == 1
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}"])
def test_damaged_json(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(TCAFError, match=r"expected a thing at .*a\.json, found a damaged file"):
        read_json(tmp_path / "a.json", "a thing")


def test_missing_json(tmp_path):
    with pytest.raises(TCAFError, match=r"expected a thing at .*a\.json, found nothing"):
        read_json(tmp_path / "a.json", "a thing")


def test_new_folder(tmp_path):
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        (folder / "file").write_text("new")
        assert not out.exists()
    assert (out / "file").read_text() == "new"
    assert names(tmp_path / "deep") == ["out"]


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])
def test_new_folder_fails(tmp_path, error):
    with pytest.raises(error), new_folder(tmp_path / "out") as folder:
        touch_and_fail(folder / "file", error)
    assert names(tmp_path) == []


def test_replaced_folder_stays_until_the_end(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(TCAFError, match="exists already; name another place"), new_folder(out):
        pytest.fail("the body must not run")
    with pytest.raises(Boom), new_folder(out, overwrite=True) as folder:
        touch_and_fail(folder / "new")
    assert names(out) == ["old"]
    with new_folder(out, overwrite=True) as folder:
        (folder / "new").touch()
        assert names(out) == ["old"]
    assert names(out) == ["new"]
    assert names(tmp_path) == ["out"]


def test_failing_rename_brings_the_old_folder_back(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    rename = Path.replace

    def failing(path, target):
        if path.name.endswith(".partial"):
            raise OSError("disk on fire")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="disk on fire"), new_folder(out, overwrite=True):
        pass
    assert names(out) == ["old"]
    assert names(tmp_path) == ["out"]


def test_leftover_of_a_killed_process_is_cleared(tmp_path):
    leftover = tmp_path / f".out.{os.getpid()}.partial"
    leftover.mkdir()
    (leftover / "stale").touch()
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").touch()
    assert names(tmp_path / "out") == ["file"]


@pytest.fixture(scope="module")
def gone():
    """The number of a process that no longer runs."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


@pytest.fixture
def other():
    """The number of another process that runs."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid


def make(folder, file):
    folder.mkdir()
    (folder / file).touch()


@pytest.mark.parametrize("own", [False, True])
def test_killed_between_the_two_renames(tmp_path, gone, own):
    pid = os.getpid() if own else gone
    make(tmp_path / f".out.{pid}.old", "old")
    make(tmp_path / f".out.{pid}.partial", "new")
    with (
        pytest.raises(TCAFError, match="exists already; name another place"),
        new_folder(tmp_path / "out"),
    ):
        pytest.fail("the body must not run")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old"]


def test_a_folder_put_back_stays_if_the_next_attempt_fails_too(tmp_path, gone):
    make(tmp_path / f".out.{gone}.old", "old")
    with pytest.raises(Boom), new_folder(tmp_path / "out", overwrite=True) as folder:
        touch_and_fail(folder / "new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old"]


def test_killed_after_the_second_rename(tmp_path, gone):
    make(tmp_path / "out", "new")
    make(tmp_path / f".out.{gone}.old", "old")
    with new_folder(tmp_path / "out", overwrite=True):
        assert names(tmp_path / "out") == ["new"]
    assert names(tmp_path) == ["out"]


def test_leftovers_of_processes_that_are_gone_are_cleared(tmp_path, gone, other):
    kept = [
        f".out.{other}.partial",
        f".out.{other}.old",
        f".out2.{gone}.partial",
        f".out.x.{gone}.partial",
        ".out.partial",
    ]
    for name in [*kept, f".out.{gone}.partial", f".out.{2**70}.partial"]:
        make(tmp_path / name, "file")
    (tmp_path / f".out.{gone}.old").touch()
    with new_folder(tmp_path / "out"):
        pass
    # What another running process writes is its own, and so are other names and plain files.
    assert names(tmp_path) == sorted([*kept, f".out.{gone}.old", "out"])


def test_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_folder(Path("out")) as folder:
        (folder / "file").touch()
        monkeypatch.chdir("/")
    assert names(tmp_path / "out") == ["file"]


def test_a_file_that_only_its_owner_could_read_follows_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        with replacing(tmp_path / "a") as temporary:
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.name != "posix", reason="locks of files")
def test_one_writer_at_a_time(tmp_path):
    for _ in range(2):  # the first lets go of it
        with (
            only_writer(tmp_path),
            pytest.raises(TCAFError, match=rf"another process \(pid {os.getpid()} on .*, since 20"),
            only_writer(tmp_path),
        ):
            pytest.fail("the body must not run")
    with pytest.raises(Boom), only_writer(tmp_path):
        raise Boom
    with only_writer(tmp_path):
        assert names(tmp_path) == []


def test_without_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with only_writer(tmp_path), only_writer(tmp_path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="locks of files")
@pytest.mark.parametrize("end", ["killed", "done"])
def test_another_process_is_named_and_lets_go(tmp_path, at_work, end):
    out = tmp_path / "deep" / "out"
    holder = at_work(out)
    (tmp_path / "link").symlink_to("deep/out")
    for path in (out, tmp_path / "link"):
        with (
            pytest.raises(TCAFError, match=rf"\(pid {holder.pid} on .*, since .* at work on {out}"),
            new_folder(path),
        ):
            pytest.fail("the body must not run")
    if end == "killed":
        holder.kill()
    else:
        holder.stdin.write("\n")
        holder.stdin.flush()
    holder.wait()
    assert (tmp_path / "deep").exists() == (end == "killed")
    with new_folder(out) as folder:
        (folder / "file").touch()
    assert names(tmp_path / "deep") == ["out"]


def test_steps_of_a_work_take_its_lock_again(tmp_path):
    with only_writer(tmp_path / "out", whole=True):
        with new_folder(tmp_path / "out") as folder:
            (folder / "file").touch()
        # But another thread is another worker.
        failed = []

        def add():
            try:
                with only_writer(tmp_path / "out", whole=True):
                    pytest.fail("the body must not run")
            except TCAFError as error:
                failed.append(error)

        thread = threading.Thread(target=add)
        thread.start()
        thread.join()
        assert len(failed) == 1
    assert names(tmp_path) == ["out"]
    with only_writer(tmp_path / "out"):
        assert names(tmp_path) == [".out.lock", "out"]


def test_where_no_lock_file_can_be_made_the_folder_is_locked(tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, *more, **named):
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *more, **named)

    monkeypatch.setattr(os, "open", refuse)
    with (
        only_writer(tmp_path),
        pytest.raises(TCAFError, match="another process is at work on"),
        only_writer(tmp_path),
    ):
        pytest.fail("the body must not run")


@pytest.mark.parametrize("there", [True, False])
def test_through_a_link_what_it_points_to_is_made_or_replaced(tmp_path, there):
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    (real / "old").touch()
    if not there:
        (real / "old").unlink()
        real.rmdir()
    link.symlink_to(real)
    with new_folder(link, overwrite=True) as folder:
        (folder / "new").touch()
    assert (link.is_symlink(), names(link), names(real)) == (True, ["new"], ["new"])
    assert names(tmp_path) == ["disk", "link"]
    assert names(tmp_path / "disk") == ["real"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_names_the_file_and_says_how_to_go_on(tmp_path):
    path = tmp_path / "x"

    def write():
        with needing_room(tmp_path, lambda: "half is kept"), replacing(path) as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"content")

    with pytest.raises(TCAFError) as caught:
        write()
    assert str(caught.value) == (
        f"no space left to write {path}; half is kept: make room and repeat the same command, "
        "which carries on"
    )
    assert not list(tmp_path.iterdir())


def test_what_is_no_full_disk_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), needing_room(tmp_path, str):
        (tmp_path / "folder" / "x").write_text("content")


@pytest.mark.parametrize(
    "text", ["[NaN]", "[1e999]", '["\\ud800"]', "[" * 10**5, '{"a":' * 10**5, "[", ""]
)
def test_what_json_cannot_hold_is_no_json(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
    assert parse_json('["\\ud83d\\ude00", 1.5]') == ["😀", 1.5]
