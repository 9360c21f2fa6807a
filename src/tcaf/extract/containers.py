"""Opening media files so that nothing but the file itself is ever opened or waited for.

Owns which files are read at all, and what is said of those that cannot be used. FFmpeg also follows
playlists, patterns of names and addresses; here it gets an open file in place of a name, may use no
protocol, and only formats that hold their own sound and picture. The content decides on the format,
never the name. How much is read without a packet coming of it is limited, so that neither time nor
memory grows with what is no media; so is the time that all work on a file may take.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tcaf.errors import MissingExtraError, TCAFError

MAX_UNPARSED = 2**27
"""Bytes that are read for one packet at most: a picture of 8K in uncompressed RGB is 2**26.6."""

MAX_PIXELS = 2**26
"""Pixels of the largest picture that is decoded: twice 8K. More of them is a damaged header."""

DECODER_LIMITS = {"max_pixels": str(MAX_PIXELS), "max_samples": str(2**24)}
"""Options of decoders; no codec has a million samples of 16 channels in a frame."""

SEEK_COST = 2**10
"""Bytes that going to another place counts as: damage can send FFmpeg from one to the next."""

FILE_TIMEOUT_S = 600.0
"""Seconds that a file may take, and as many again for each MiB of it.

The slowest backbone takes 1.2 s of one core for a second of video (results/extraction.md), and of a
recorded screen a MiB may hold 500 s.
"""

MAX_TIMEOUTS = 144
"""How many times as long a file may take at most, whatever its size: by default a day."""

FILE_MEMORY = 2.0**32
"""Bytes that work on a file may take, beyond those of the backbones and of Python.

Pictures of 8K in 10 bits, 16 of which a decoder holds, take 1.8 GiB.
"""

_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,asf,asf_o,flv,live_flv,kux,ogg,rm,ivr,mxf,gxf,nut,wtv,swf,dv,"
    "nsv,nuv,dhav,ty,pva,pmp,thp,lmlm4,amv,vivo,smk,bink,roq,flic,smjpeg,yuv4mpegpipe,ivf,obu,"
    "av1,avs2,avs3,mpegvideo,m4v,h261,h263,h264,hevc,vvc,evc,apv,vc1,dirac,dnxhd,cavsvideo,mjpeg,"
    "mjpeg_2000,ingenient,gif,apng,webp,jpegxl_anim,wav,w64,aiff,au,caf,voc,iff,flac,mp3,aac,ac3,"
    "ac4,eac3,dts,dtshd,truehd,mlp,loas,latm,amr,amrnb,amrwb,ape,wv,tta,tak,mpc,mpc8,shn,dsf,oma,"
    "aea,qcp,sox,gsm,mmf,aa,aax,xwma,xa,sbc,spdif,rka,osq,bonk"
)
"""FFmpeg's demuxers that open nothing but the file; not among them are `hls`, `concat`, `dash`,
`sdp`, `image2`, `imf`, `vobsub`, `avisynth` and whatever is new."""

_PICTURES = (
    "bmp,dds,dpx,exr,gem,gif,hdr,j2k,jpeg,jpegls,jpegxl,pam,pbm,pcx,pfm,pgm,pgmyuv,pgx,phm,"
    "photocd,pictor,png,ppm,psd,qdraw,qoi,sgi,sunrast,svg,tiff,vbn,webp,xbm,xpm,xwd"
)
"""Single pictures; they are opened to be called what they are."""

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""Flags of opening: a pipe is not waited for, and no system translates line ends."""

_MAGIC = {b"ftyp": slice(4, 8), b"\x1aE\xdf\xa3": slice(0, 4), b"RIFF": slice(0, 4)}
"""How the common containers begin, to part a damaged header from what is no media file."""

_LISTS = (b"#extm3u", b"ffconcat", b"[playlist]", b"[reference]", b"v=0", b"<asx", b"<smil")
"""How texts begin that name other files: m3u and HLS, ffconcat, pls, asx, SDP, SMIL."""

_LIST_TAGS = (b"<mpd", b"<smoothstreamingmedia", b"xspf", b"rtsptext", b"<wpl")
"""What stands in the first bytes of such texts in XML."""


ENCRYPTED = ("encrypted", "it plays with its owner's keys alone")
"""Reason and detail of such files."""

_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
"""How an ASF file begins, as WMV and WMA are."""

_ASF_KEYS = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
    bytes.fromhex("338505438169e6499b74ad12cb86d58c"),
)
"""What stands in the header of one that is encrypted: the content encryption object, or the
extended, or the advanced one."""

_TS_SIZES = (188, 192, 204)
"""Bytes of a packet of an MPEG transport stream; discs put a time before it, some senders a sum
behind it."""

_TS_SYNC = 0x47


class MediaError(TCAFError):
    """A file that cannot be used.

    Args:
        path: of the file.
        reason: one of few phrases, by which such files are counted.
        detail: more on this file.
    """

    def __init__(self, path: str | Path, reason: str, detail: str = "") -> None:
        more = f" ({' '.join(detail.split())})" if detail else ""
        super().__init__(f"{one_line(path)}: {reason}{more}")
        self.path = Path(path)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuilds the error on the other side of a pipe between processes."""
        return type(self), (self.path, self.reason, self.detail)


class TrackError(MediaError):
    """A track that cannot be used; what else is in the file may be."""


class BrokenMediaWarning(UserWarning):
    """Part of a file does not decode; the rest is used."""


def one_line(path: str | Path) -> str:
    """Returns a path as it is, quoted and escaped where it would break the line."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def import_av() -> Any:
    """Returns PyAV. Its own default keeps FFmpeg's messages off standard error."""
    try:
        import av
    except ImportError:
        raise MissingExtraError("PyAV is not installed; pip install 'tcaf[video]'") from None
    return av


class Reader:
    """A file as FFmpeg reads it. Without a name: none can be followed or give a format away.

    Args:
        file: open, not buffered.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._unparsed = 0
        self.is_exhausted = False
        self.tell = file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to another place, which counts as `SEEK_COST` bytes read."""
        self._unparsed += SEEK_COST
        place: int = self._file.seek(offset, whence)
        return place

    def read(self, size: int) -> bytes:
        """Returns the next bytes; none after `MAX_UNPARSED` without a packet, as at the end."""
        self.is_exhausted = self._unparsed >= MAX_UNPARSED
        if self.is_exhausted:
            return b""
        data: bytes = self._file.read(size)
        self._unparsed += len(data)
        return data

    def note_packet(self) -> None:
        """Lets as much be read again."""
        self._unparsed = 0


@contextmanager
def open_container(path: Path) -> Iterator[tuple[Any, Reader]]:
    """Yields PyAV's container of a file, and what it reads from.

    Raises:
        MediaError: no media file, or one that is read only by opening others.
        MissingExtraError: PyAV is not installed.
    """
    av = import_av()
    with _opened(path) as file:
        head = file.read(2**18)
        file.seek(0)
        if not head:
            raise MediaError(path, "an empty file")
        if _is_list(head[:4096]):
            raise MediaError(path, "a playlist", "it names other files, none of which is opened")
        if _is_encrypted(head):
            raise MediaError(path, *ENCRYPTED)
        allowed = ",".join([_FORMATS, *(f"{name}_pipe" for name in _PICTURES.split(","))])
        # Decoders have their limits here too, as the first packets are decoded on opening.
        options = {"format_whitelist": allowed, "protocol_whitelist": "none", **DECODER_LIMITS}
        is_known = any(head[place] == magic for magic, place in _MAGIC.items())
        reader = Reader(file)
        try:
            container = av.open(reader, options=options, metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            reason = "damaged header" if is_known else "not a media file"
            raise MediaError(path, reason, getattr(error, "strerror", "") or "") from None
        with container:
            if container.format.name.endswith("_pipe"):
                raise MediaError(path, "a picture, not a clip")
            if is_known and all(t.type in ("data", "unknown") for t in container.streams):
                raise MediaError(path, "damaged header")
            reader.note_packet()
            yield container, reader


def _is_list(head: bytes) -> bool:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith(_LISTS) or (text[:1] == b"<" and any(t in text for t in _LIST_TAGS))


def _is_encrypted(head: bytes) -> bool:
    """Returns whether a file says so where FFmpeg does not look: in ASF and transport streams."""
    if head.startswith(_ASF):
        return any(key in head for key in _ASF_KEYS)
    for size in _TS_SIZES:
        for start in range(size):
            if len(head) >= 8 * size and set(head[start::size][:8]) == {_TS_SYNC}:
                # The upper two bits of byte 3: 0 is clear, 2 and 3 are the even and the odd key.
                flags = [byte >> 6 for byte in head[start + 3 :: size]]
                return sum(flag >= 2 for flag in flags) > len(flags) / 2
    return False


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yields an open file, not buffered.

    Raises:
        MediaError: there is none, or none that ends; it cannot be read, now or later.
    """
    av = import_av()
    try:
        _check_kind(path, path.stat().st_mode)
        # Without waiting, if another kind has taken its place meanwhile.
        handle = os.open(path, os.O_RDONLY | _AT_ONCE)
        with os.fdopen(handle, "rb", buffering=0) as file:
            _check_kind(path, os.fstat(handle).st_mode)
            yield file
    except av.FFmpegError:
        raise  # some are FileNotFoundError and the like too
    except FileNotFoundError:
        raise MediaError(path, "no such file") from None
    except ValueError as error:
        if isinstance(error, TCAFError):
            raise
        raise MediaError(path, "no such file", str(error)) from None  # a zero byte in the name
    except OSError as error:
        raise MediaError(path, "not readable", error.strerror or "") from None


def _check_kind(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise MediaError(path, "a folder")
    if not stat.S_ISREG(mode):
        raise MediaError(path, "not a file", "but a device, a pipe or a socket")
