"""Files that someone made to open, run or exhaust something; what comes of each.

Two baits tell whether anything foreign is reached: a file that code in a pickle would make, and a
pipe and an address that lists name, of which each opening is seen.
"""

import csv
import gzip
import json
import os
import pickle
import re
import shutil
import struct
import sys
import threading
import time
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.reliability.commands import Ended, run_tcaf
from benchmarks.reliability.section import Section
from safetensors.numpy import save

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from damaged import write_clip
from tcaf.data.features import FeatureSpec, VideoFeatures
from tcaf.data.splits import Split
from tcaf.data.writer import new_store
from tcaf.files.sealed import seal_json, write_sealed

CHEAP = ("--visual", "efficientnet_lite0:frames=1,weights=random")
MAX_MIB = 5200.0
"""What a worker may take: the limit of a file's memory, and backbones with Python beside it."""


class Bait:
    """A pipe and an address; counts who opens them."""

    def __init__(self, folder: Path) -> None:
        self.pipe, self.touched, self._is_over = folder / "bait", 0, False
        self.canary = folder / "canary"
        os.mkfifo(self.pipe)
        bait = self

        class Live(BaseHTTPRequestHandler):
            """A playlist that never ends."""

            def do_GET(self) -> None:
                bait.touched += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nlive.ts\n")

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Live)
        self.address = f"http://127.0.0.1:{self._server.server_port}/live.m3u8"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def _look(self) -> None:
        while not self._is_over:
            try:
                os.close(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
                self.touched += 1
            except OSError:
                pass  # nobody has opened it to read
            time.sleep(0.01)

    def close(self) -> None:
        """Stops watching."""
        self._is_over = True
        self._watch.join()
        self._server.shutdown()
        self._server.server_close()


def _png(side: int) -> bytes:
    """A picture of zeros, RGBA of 16 bits: a thousandth of what it decodes to."""
    packer = zlib.compressobj(1)
    data = b"".join([*(packer.compress(bytes(1 + 8 * side)) for _ in range(side)), packer.flush()])
    head = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks
    )


def _write_pictures(path: Path, data: bytes, count: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for k in range(count):
            packet = av.Packet(data)
            packet.pts = packet.dts = k
            packet.time_base, packet.stream = 1 / stream.average_rate, stream
            container.mux(packet)


def _patched(data: bytes, mark: bytes, skip: int, new: bytes) -> bytes:
    place = data.index(mark) + len(mark) + skip
    return data[:place] + new + data[place + len(new) :]


def write_media(folder: Path, bait: Bait) -> dict[str, str]:
    """Writes media files into a folder; returns what each tries, by name."""
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{}\n{}"
    texts = {
        "hls.mp4": (hls.format(bait.pipe, "#EXT-X-ENDLIST\n"), "HLS that names a pipe"),
        "live.mp4": (hls.format(bait.address, ""), "a live playlist on the network"),
        "concat.mp4": (f"ffconcat version 1.0\nfile {bait.pipe}\n", "a list of files"),
        "dash.mp4": (f"<MPD><Period><BaseURL>{bait.address}</BaseURL></Period></MPD>", "DASH"),
        "call.mp4": ("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n", "SDP"),
    }
    told = {}
    for name, (text, what) in texts.items():
        (folder / name).write_text(text)
        told[name] = what
    whole = write_clip(folder / "whole.mkv", 1.0)
    told["whole.mkv"] = "nothing: a clip as any"
    with (folder / "zeros.mp3").open("wb") as file:
        file.truncate(10 * 10**9)
    told["zeros.mp3"] = "10 GB of zeros"
    shutil.copy(whole, folder / "tail.mkv")
    os.truncate(folder / "tail.mkv", 10 * 10**9)
    told["tail.mkv"] = "a clip with 10 GB of zeros behind it"
    os.mkfifo(folder / "pipe.mp4")
    told["pipe.mp4"] = "a pipe that nobody writes into"
    (folder / "device.mp4").symlink_to("/dev/zero")
    told["device.mp4"] = "a link to an endless device"
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    told["loop.mp4"] = "a link to itself"
    _write_pictures(folder / "pixels.avi", _png(16_000), 5)
    told["pixels.avi"] = "pictures of 16,000 x 16,000, 2 GB each, in 9 MB"
    _write_pictures(folder / "largest.avi", _png(8_190), 8)
    told["largest.avi"] = "the largest pictures that are decoded, 0.5 GB each"
    wav = {"audio_codec": "pcm_s16le", "audio_seconds": 1}
    sound = write_clip(folder / "x.wav", 0, **wav).read_bytes()
    told["x.wav"] = "nothing: sound as any"
    for name, skip, new, what in (
        ("rate.wav", 8, struct.pack("<I", 1), "one sample a second"),
        ("fast.wav", 8, struct.pack("<I", 2**31 - 1), "2 billion samples a second"),
        ("channels.wav", 6, struct.pack("<H", 65535), "65,535 channels"),
    ):
        (folder / name).write_bytes(_patched(sound, b"fmt ", skip, new))
        told[name] = what
    cover = b"\0image/png\0\3\0" + _png(16_000)
    tag = b"APIC" + struct.pack(">I", len(cover)) + b"\0\0" + cover
    size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
    mp3 = write_clip(folder / "m.mp3", 0, audio_seconds=1, audio_codec="libmp3lame").read_bytes()
    (folder / "cover.mp3").write_bytes(b"ID3\3\0\0" + size + tag + mp3)
    (folder / "m.mp3").unlink()
    told["cover.mp3"] = "cover art of 16,000 x 16,000"
    named = "\x1b[31m=HYPERLINK(1),\n.mkv"
    shutil.copy(whole, folder / named)
    told[named] = "a name with an escape sequence, a formula and a line break"
    return told


def _media(folder: Path, bait: Bait) -> tuple[list[list[str]], bool]:
    clips = folder / "clips"
    (clips / "<script>alert(1)</script>").mkdir(parents=True)
    told = write_media(clips / "<script>alert(1)</script>", bait)
    (clips / "up").symlink_to(clips)
    ended = run_tcaf("prepare", "videos", clips, "--out", folder / "store", "--workers", 1, *CHEAP)
    with (folder / "store" / "rejects.csv").open(newline="", encoding="utf-8") as file:
        reasons = {row["file"].split("/")[-1]: row["reason"] for row in csv.DictReader(file)}
    kept = {"whole.mkv", "x.wav", "tail.mkv", "largest.avi", "cover.mp3", list(told)[-1]}
    rows = [[ascii(n)[1:-1], w, reasons.get(n, "kept"), "", ""] for n, w in told.items()]
    rows.append(["all of them", "one call of `prepare videos`", *_how(ended)])
    holds = ended.status == 0 and set(told) - set(reasons) == kept and ended.worker_mib < MAX_MIB
    return rows, holds


def _how(ended: Ended) -> list[str]:
    line = re.sub(r"/\S+/", "", ascii(ended.line)[1:-1])[:140].replace("|", "/")
    peak = max(ended.parent_mib, ended.worker_mib)
    return [f"{ended.status}: {line}", f"{ended.seconds:.1f}", f"{peak:.0f}"]


class Call:
    """What pickles to a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> Any:
        return self.parts


def _calls(canary: Path) -> dict[str, Any]:
    code = f"open({str(canary)!r}, 'w')"
    return {
        "os.system": Call(os.system, f"touch {canary}"),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "numpy.fromfile": Call(np.fromfile, str(canary.parent / "bait")),
        "numpy.load": Call(np.load, str(canary.parent / "bait"), None, True),
    }


def _npy(path: Path, content: bytes) -> None:
    """Writes a pickle where a file of an array of objects keeps its own."""
    with path.open("wb") as file:
        head = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, head)
        file.write(content)


class Gadget:
    """Pickles to an array whose state is not numpy's own: memory that is no object's."""

    def __init__(self, *state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, *self.state)


def _gadgets() -> dict[str, bytes]:
    objects = Gadget((64,), np.dtype("O"), False, b"A" * 512)
    few = Gadget((2**40,), np.dtype("f8"), False, b"A" * 8)
    bytes_ = "cnumpy._core.multiarray\n_reconstruct\n}X\x08\0\0\0__code__Nsb."
    return {
        "sets addresses as an array's objects": pickle.dumps(objects),
        "sets 8 TB of an array from 8 bytes": pickle.dumps(few),
        "sets the state of a function": bytes_.encode("latin-1"),
        "repeats a string to 2 GB": b"\x80\x04X\xff\xff\xff\x7fabc.",
    }


MARKUP = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'-alert(1)-' <b>")


def _page(folder: Path) -> tuple[list[str], bool]:
    """Reports on a run of classes whose names are markup; returns its row and whether it holds."""
    rng, names = np.random.default_rng(0), (*MARKUP, "<svg onload=alert(1)>")
    with new_store(folder / "markup", FeatureSpec(4, 4, 1.0, 1.0, *MARKUP[:2])) as writer:
        writer.splits["cls"] = Split(names[:2], names[2:3], names[3:])
        parts = ("stage_1_train", "stage_1_train", "val_unseen", "test_unseen")
        pairs = [*zip(names, parts, strict=True)]
        pairs += [(name, part) for name in names[:2] for part in ("val_seen", "test_seen")]
        for number in range(8 * len(pairs)):
            name, part = pairs[number % len(pairs)]
            features = rng.normal(size=(2, 3, 4))
            writer.add(VideoFeatures(f"{name} {number}", *features, name, part))
        writer.add_text("words", {name: rng.normal(size=5).astype(np.float32) for name in names})
    trained = run_tcaf(
        *("train", "--store", folder / "markup", "--out", folder / "markup run"),
        *("--system", "ridge", "--text.name", "words"),
    )
    ended = run_tcaf("report", folder / "markup run", "--out", folder / "page.html")
    html = (folder / "page.html").read_text(encoding="utf-8") if ended.status == 0 else ""
    is_inert = not re.search(r"<script|<img|<b>|<svg onload", html, re.IGNORECASE)
    row = ["report.html", "class and clip names that are markup", *_how(ended)]
    row[2] = row[2] if trained.status == 0 else _how(trained)[0]
    holds = is_inert and "&lt;script&gt;alert(1)" in html
    if not holds:
        row[0] += " **fails**"
    return row, holds


def _damaged_store(store: Path, to: Path, change: Any) -> Path:
    shutil.copytree(store, to)
    value = json.loads((to / "store.json").read_text())
    change(value)
    value.pop("sha256", None)
    (to / "store.json").write_text(json.dumps(seal_json(value)))
    return to


def _others(folder: Path, bait: Bait) -> tuple[list[list[str]], bool]:
    cases: list[tuple[Path, str, tuple[object, ...]]] = []
    store = folder / "world"
    run_tcaf("prepare", "synthetic", "--out", store)
    (folder / "one" / "dog").mkdir(parents=True)
    write_clip(folder / "one" / "dog" / "whole.mkv", 1.0)

    def text_of(source: str, path: Path) -> tuple[object, ...]:
        given = ("--text.source", source, "--text.name", "", "--text.path", path)
        return ("train", "--store", store, "--out", folder / "r", *given)

    def shard(value: Any) -> None:
        value["shards"][0]["file"] = "../bait"

    to = _damaged_store(store, folder / "up", shard)
    cases.append((to / "store.json", "a shard `../bait`", ("inspect", to)))
    (folder / "deep").mkdir()
    path = folder / "deep" / "store.json"
    path.write_text("[" * 1_000_000)
    cases.append((path, "a million lists within lists", ("inspect", path.parent)))
    path = folder / "deep.toml"
    path.write_text("a = " + "[" * 100_000)
    cases.append((path, "100,000 lists within lists", ("settings", "--config", path)))
    for name in ("../canary.mp4", "/etc/passwd", "up/../../bait"):
        path = folder / f"labels {len(cases)}.csv"
        path.write_text(f"file,class\n{name},dog\n")
        words = ("prepare", "videos", folder / "one", "--labels", path, "--out", folder / "n")
        cases.append((path, f"names {name}", words))
    for kind, call in _calls(bait.canary).items():
        path = folder / f"{kind}.pt"
        torch.save({"state_dict": call}, path)
        words = ("import-checkpoint", path, "--store", store, "--out", folder / "m")
        cases.append((path, f"checkpoint that calls {kind}", words))
        for option, backbone in (("audio", "vggish"), ("visual", "c3d")):
            words = ("prepare", "videos", folder / "one", f"--{option}", backbone)
            words = (*words, f"--{option}_weights", path, "--out", folder / "n")
            cases.append((path, f"weights of {backbone} that call {kind}", words))
        path = folder / f"{kind}.npy"
        np.save(path, np.array([call], object), allow_pickle=True)
        cases.append((path, f"vectors that call {kind}", text_of("npy", path)))
    for number, (what, content) in enumerate(_gadgets().items()):
        path = folder / f"gadget {number}.npy"
        _npy(path, content)
        cases.append((path, what, text_of("npy", path)))
    path = folder / "words.npz"
    bomb = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with bomb, bomb.open("x.npy", "w", force_zip64=True) as member:
        head = {"descr": "<f4", "fortran_order": False, "shape": (2**29,)}
        np.lib.format.write_array_header_1_0(member, head)
        for _ in range(2_048):
            member.write(bytes(2**20))
    cases.append((path, "2 GB of zeros in 9 MB", text_of("npy", path)))
    path = folder / "words.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(2_000):
            file.write(bytes(2**20))
    cases.append((path, "2 GB of zeros in 9 MB", text_of("word2vec", path)))
    path = folder / "live.m3u8"
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{bait.pipe}\n#EXTINF:1,\n{bait.address}\n")
    (folder / "list.csv").write_text(f"file,class\n{path.name},dog\n")
    words = ("prepare", "videos", folder, "--labels", folder / "list.csv", "--out", folder / "n")
    cases.append((path, "a playlist by its own name, in labels.csv", (*words, *CHEAP)))
    for name, data in (("long.safetensors", b"\xff" * 64), ("none.safetensors", b"\0" * 64)):
        path = folder / name
        path.write_bytes(data)
        words = ("predict", path, folder / "one")
        cases.append((path, "a header of a false length", words))
    path = folder / "deep.safetensors"
    write_sealed(path, save({"x": np.zeros(1, np.float32)}, {"header": "[" * 100_000}))
    words = ("predict", path, folder / "one")
    cases.append((path, "100,000 lists within lists in its header", words))
    rows, holds = [], True
    for path, what, words in cases:
        ended = run_tcaf(*words, timeout_s=60)
        rows.append([path.name, what, *_how(ended)])
        # Whatever refuses it has to have got as far as the file.
        fits = ended.status == 2 and ended.parent_mib < 1500 and "Traceback" not in ended.line
        fits &= path.name in ended.line
        holds &= fits
        if not fits:
            rows[-1][0] += " **fails**"
    row, is_inert = _page(folder)
    return [*rows, row], holds and is_inert


def run(folder: Path, rng_seed: int, *, quick: bool) -> Section:
    """Makes the files, hands each to the command that reads its kind, and looks what came of it."""
    start = time.perf_counter()
    bait = Bait(folder)
    try:
        rows, media_hold = _media(folder, bait)
        more, others_hold = _others(folder, bait)
    finally:
        bait.close()
    is_untouched = not bait.touched and not bait.canary.exists()
    lines = ["| file | tries | came of it | s | MiB |", "|---|---|---|---|---|"]
    shown = (" | ".join(row).replace("<", "&lt;") for row in rows + more)
    lines.extend(f"| {row} |" for row in shown)
    passed = media_hold and others_hold and is_untouched
    text = "\n".join(
        [
            "Criterion: every command ends by itself, with status 2 and one line that names "
            "the file where it refuses; files as any are kept; a media worker "
            "stays below 5.2 GB; no bait is touched.",
            "",
            f"Baits (a pipe, an address, a file that foreign code would make): touched "
            f"{bait.touched} times; the file is {'there' if bait.canary.exists() else 'not there'}."
            " The media are read with `logmel` and `efficientnet_lite0:frames=1,weights=random` by "
            "one worker; a column without numbers belongs to the call below.",
            "",
            *lines,
        ]
    )
    return Section("Hostile files", passed, text, time.perf_counter() - start)
