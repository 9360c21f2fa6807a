"""Which files are read at all: nothing but the file itself is opened, and nothing waited for."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from damaged import write_clip
from tcaf.extract import containers
from tcaf.extract.backbones import FrameSize
from tcaf.extract.containers import MediaError, Reader, open_container
from tcaf.extract.media import probe, read_audio, read_frames
from tcaf.extract.work_folder import MediaFile

av = pytest.importorskip("av")

LISTS = {
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "live.m3u8": "\ufeff#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{}\n",
    "radio.m3u": "#EXTM3U\n{}\n",
    "concat.mp4": "ffconcat version 1.0\nfile {}\n",
    "concat.mkv": "\n  ffconcat version 1.0\nfile file:{}\n",
    "radio.pls": "[playlist]\nFile1={}\n",
    "call.sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\n",
    "dash.mpd": '<?xml version="1.0"?>\n<MPD><Period><BaseURL>{}</BaseURL></Period></MPD>',
    "list.xspf": "<?xml version='1.0'?><playlist xmlns='http://xspf.org/ns/0/'>{}</playlist>",
    "list.asx": '<ASX version="3.0"><Entry><Ref href="{}"/></Entry></ASX>',
    "list.smil": '<smil><body><video src="{}"/></body></smil>',
}

READERS = [
    probe,
    lambda path: list(read_audio(path, 16_000)),
    lambda path: list(read_frames(path, 5.0, FrameSize(11, 13))),
]


@pytest.fixture(scope="module")
def neighbour(tmp_path_factory):
    """A transport stream, which all kinds of lists may name."""
    path = tmp_path_factory.mktemp("neighbour") / "secret.ts"
    return write_clip(path, 1.0, sample_rate=48_000)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("is_near", [True, False])
def test_lists_of_other_files_are_called_that(tmp_path, neighbour, name, is_near):
    target = neighbour
    if is_near:
        target = tmp_path / "secret.ts"
        target.write_bytes(neighbour.read_bytes())
    path = tmp_path / name
    path.write_text(LISTS[name].format(target.name if is_near else target), encoding="utf-8")
    for read in READERS:
        with pytest.raises(MediaError) as caught:
            read(path)
        assert caught.value.reason == "a playlist"
        assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("name", [*LISTS, "frame%03d.png", "frame%03d.mkv"])
def test_ffmpeg_opens_nothing_else(tmp_path, name, monkeypatch):
    """Even where a list is not recognised as one: here the neighbour is a pipe without a writer.

    Whoever opens that waits for ever, or FFmpeg would say another thing of it.
    """
    monkeypatch.setattr(containers, "_is_list", lambda head: False)
    monkeypatch.chdir(tmp_path)  # absolute names FFmpeg refuses for its own reasons
    os.mkfifo("secret.ts")
    text = LISTS.get(name, "no clip").format("secret.ts")
    (tmp_path / name).write_text(text, encoding="utf-8")
    write_clip(tmp_path / "frame001.mkv", 0.2, sample_rate=None)
    for read in READERS:
        with pytest.raises(MediaError) as caught:
            read(tmp_path / name)
        assert caught.value.reason == "not a media file"


def test_only_formats_that_open_nothing_else_are_known():
    known = {name for each in av.formats_available for name in each.split(",")}
    formats, pictures = containers._FORMATS.split(","), containers._PICTURES.split(",")
    assert set(formats) <= known
    assert {f"{name}_pipe" for name in pictures} <= known
    following = {"hls", "concat", "dash", "sdp", "rtsp", "rtp", "sap", "image2", "image2pipe"}
    following |= {"webm_dash_manifest", "vobsub", "lavfi", "fifo", "tedcaptions", "imf"}
    assert not following & {*formats, *(f"{name}_pipe" for name in pictures)}


def test_no_protocol_may_be_used(tmp_path):
    """Addresses and what looks like them are names of files, of which there are none."""
    clip = write_clip(tmp_path / "x.mkv", 0.2, sample_rate=None)
    for name in (f"concat:{clip}|{clip}", f"subfile,,start,0,end,0,,:{clip}", f"file:{clip}"):
        for read in READERS:
            with pytest.raises(MediaError, match="no such file"):
                read(name)


def test_the_content_decides_not_the_name(tmp_path):
    clip = write_clip(tmp_path / "x.mkv", 0.4, sample_rate=None)
    for name in ("frame%03d.png", "concat:a|b.mp3", "list.m3u8", "noname"):
        path = tmp_path / name
        path.write_bytes(clip.read_bytes())
        assert len(READERS[2](path)) == 2


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x.mp4"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(path))
    else:
        path.mkdir()
    for read in READERS:
        with pytest.raises(MediaError) as caught:
            read(path)
        assert caught.value.reason == ("a folder" if kind == "folder" else "not a file")


def test_scrambled_transport_streams_are_encrypted(tmp_path):
    for name in ("x.ts", "x.m2ts"):
        options = {"mpegts_m2ts_mode": str(int(name == "x.m2ts"))}
        path = write_clip(tmp_path / name, 1.0, sample_rate=48_000, container_options=options)
        assert len(READERS[2](path)) >= 5
        data, size = bytearray(path.read_bytes()), 192 if name == "x.m2ts" else 188
        # Tables, which have other numbers, are never scrambled.
        media = (0x1011, 0x1100) if size == 192 else (256, 257)
        for packet in range(size - 188, len(data), size):
            assert data[packet] == 0x47
            if int.from_bytes(data[packet + 1 : packet + 3], "big") & 0x1FFF in media:
                data[packet + 3] |= 0x80
                data[packet + 16 : packet + 188] = os.urandom(172)
        # A recording may begin within a packet.
        path.write_bytes(data[100:])
        for read in READERS:
            with pytest.raises(MediaError, match="encrypted"):
                read(path)


ENCRYPTION = {
    "content": "fbb3112223bdd211b4b700a0c955fc6e",
    "extended": "14e68a292226174cb935dae07ee9289c",
    "advanced": "338505438169e6499b74ad12cb86d58c",
}


@pytest.mark.parametrize("kind", ENCRYPTION)
def test_protected_asf_is_encrypted(tmp_path, kind):
    path = tmp_path / "x.wmv"
    write_clip(path, 1.0, video_codec="wmv2", sample_rate=None)
    assert len(READERS[2](path)) >= 5
    data = bytearray(path.read_bytes())
    inside = bytes.fromhex(ENCRYPTION[kind]) + (56).to_bytes(8, "little") + bytes(32)
    data[30:30] = inside  # right behind the head of the header
    data[16:24] = (int.from_bytes(data[16:24], "little") + len(inside)).to_bytes(8, "little")
    data[24:28] = (int.from_bytes(data[24:28], "little") + 1).to_bytes(4, "little")
    path.write_bytes(data)
    for read in READERS:
        with pytest.raises(MediaError, match="encrypted"):
            read(path)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "x.mp4"
    os.mkfifo(path)
    regular = Path(__file__).stat()
    monkeypatch.setattr(Path, "stat", lambda self: regular)
    with pytest.raises(MediaError, match="not a file"):
        probe(path)


def test_a_disk_that_fails_is_named(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "x.mkv", 0.2)

    def fail(self, size):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Reader, "read", fail)
    with pytest.raises(MediaError, match=r"x.mkv: not readable \(Input/output error\)"):
        probe(path)


def test_no_more_than_so_much_is_read_for_a_packet(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_UNPARSED", 2**20)
    path = write_clip(tmp_path / "x.mkv", 0.2, sample_rate=None)
    with path.open("ab") as file:
        file.truncate(2**26)
    with open_container(path) as (container, reader):
        sizes = [packet.size for packet in container.demux()]
        assert len([size for size in sizes if size]) == 5
        assert reader.is_exhausted
        assert reader.tell() < 2**22


MEASURE = """
import re, sys, warnings
from pathlib import Path
from tcaf.extract.backbones import FrameSize
from tcaf.extract.containers import BrokenMediaWarning, MediaError
from tcaf.extract.media import read_audio, read_frames
warnings.simplefilter("ignore", BrokenMediaWarning)
counts = []
for items in (read_audio(sys.argv[1], 16000), read_frames(sys.argv[1], 2.0, FrameSize(112, 112))):
    try:
        counts.append(sum(len(item) for item in items))
    except MediaError as error:
        counts.append(error.reason.replace(" ", "-"))
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(*counts, peak / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak from /proc")
@pytest.mark.parametrize("name", ["zeros.mp3", "x.mp3", "x.aac", "x.mkv", "x.wav", "x.avi", "x.ts"])
def test_gigabytes_of_zeros_cost_neither_time_nor_memory(tmp_path, name):
    path = tmp_path / name
    if name != "zeros.mp3":
        seconds = 0 if name.endswith(("mp3", "aac", "wav")) else 2
        codecs = {"x.mp3": "libmp3lame", "x.wav": "pcm_s16le", "x.avi": "pcm_s16le"}
        settings = {"audio_codec": codecs.get(name, "aac"), "sample_rate": 48_000}
        settings |= {"video_codec": "mpeg4"} if seconds else {}
        write_clip(path, seconds, audio_seconds=2, **settings)
    with path.open("ab") as file:
        file.truncate(9 * 10**9)  # sparse: it takes no room
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    first, _, peak = done.stdout.split()
    assert float(peak) < 600
    if name == "zeros.mp3":
        assert first == "not-a-media-file"
    else:
        assert int(first) / 16_000 == pytest.approx(2, abs=0.2)


def test_a_name_with_a_zero_byte_is_of_no_file():
    with pytest.raises(MediaError, match="no such file"), open_container(Path("a\0b.mp4")):
        pass
    assert MediaFile("a", Path("a\0b.mp4")).state() == {}
