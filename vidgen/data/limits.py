"""What decoding one file of a stranger may cost."""

import dataclasses

# What listing may cost. Nobody's clips are near these; claims of archives and headers may be.
MEMBERS = 1_000_000_000  # files of a folder or archive
CLIPS = 20_000_000  # of a source; the largest set of videos that researchers share has 10.7 million
OF_ARRAY = 1_000_000  # clips of one file of arrays, which a few bytes may claim
DEPTH = 40  # folders within folders; more is a loop or a prank
PART, NAME = 255, 4096  # characters between two slashes of a name, and in all; as file systems have
LABEL = 1000  # characters of a class's name
CAPTION = 1 << 16  # bytes of a file with the caption of one clip
CAPTIONS = 1 << 28  # bytes of a file with those of many
RATIO = 100  # bytes of a compressed tar for each of its file, beyond those of one member
WAYS = 16  # by which links may lead to one folder


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one file may cost; a file beyond any of these is refused, by name, with the field.

    Attributes:
      frames: Frames kept of a file.
      pixels: Pixels of one frame, as stored and as resized.
      bytes: Bytes of all its frames at the size kept, or of one member of an archive.
      seconds: Seconds of processor time that decoding may take.
    """

    frames: int = 100_000
    pixels: int = 50_000_000  # 8K video has 33 million
    bytes: int = 4_000_000_000
    seconds: float = 120.0

    def memory(self) -> int:
        """Returns the bytes of address space for a decoder under these limits.

        One GiB for Python, NumPy and FFmpeg; 40 bytes for each pixel, since H.264 keeps up to 17
        frames of 1.5 bytes and the frame being converted comes on top; one archive member.
        """
        return (1 << 30) + 40 * self.pixels + self.bytes

    def patience(self) -> float:
        """Returns the seconds by the clock after which a decoder hangs: others may be busy, too."""
        return 10 * self.seconds
