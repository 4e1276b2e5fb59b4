"""What decoding one file of a stranger may cost."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one file may cost; a file beyond any of these is refused, by name, with the field.

    Attributes:
      frames: Frames kept of a file.
      pixels: Pixels of one frame, as stored and as resized.
      bytes: Bytes of all its frames at the size kept, or of one member of an archive.
      seconds: Seconds that decoding may take.
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
