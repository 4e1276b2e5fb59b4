"""How clips become a pack: one record that travels from a config to the decoder."""

import dataclasses
import math
from typing import Any

from vidgen import frame_size
from vidgen.data.limits import Limits
from vidgen.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class PackSettings:
    """How clips are listed and decoded; with the files themselves, all that a pack depends on.

    Attributes:
      size: Of the frames in pixels: the side of squares, or `(height, width)`.
      crop: Frames are scaled until they just cover the size. "center" packs the centre of them;
        "random" packs them whole, and each draw takes a part of the size.
      fps: Resample to this rate; None keeps every frame.
      background: RGB behind transparent pixels.
      labels: "folder": the first folder below the root, or the column of a manifest, names the
        class; "none": no classes.
      captions: "files": those that lie beside clips or in a manifest; "names": of clips that have
        none, the words of their names.
      limits: What decoding one file may cost.

    Raises:
      ConfigError: A setting is out of range.
    """

    size: frame_size.Size = 64
    crop: str = "center"
    fps: float | None = None
    background: tuple[int, int, int] = (0, 0, 0)
    labels: str = "folder"
    captions: str = "files"
    limits: Limits = dataclasses.field(default_factory=Limits)

    def __post_init__(self):
        if self.crop not in ("center", "random"):
            raise ConfigError(
                f"data.crop={self.crop!r} is not known", "choose 'center' or 'random'"
            )
        if self.labels not in ("folder", "none"):
            raise ConfigError(
                f"data.labels={self.labels!r} is not known", "choose 'folder' or 'none'"
            )
        if self.captions not in ("files", "names"):
            raise ConfigError(
                f"data.captions={self.captions!r} is not known", "choose 'files' or 'names'"
            )
        object.__setattr__(self, "size", frame_size.normal(self.size))
        if min(frame_size.height_width(self.size)) < 1 or (
            self.fps is not None and not 0 < self.fps < math.inf
        ):
            raise ConfigError(f"data.size={self.size} and data.fps={self.fps} must be positive")

    def of_frames(self) -> dict[str, Any]:
        """Returns the settings that decide what a clip's frames are, as pack.json has them."""
        return {
            "size": list(self.size) if isinstance(self.size, tuple) else self.size,
            "crop": self.crop,
            "fps": self.fps,
            "background": list(self.background),
        }


def pack_settings(data: Any) -> PackSettings:
    """Returns the settings that the section `data` of a config asks for."""
    return PackSettings(
        size=data.size,
        crop=data.crop,
        fps=data.fps or None,
        background=tuple(data.background),
        labels=data.labels,
        captions=data.get("captions", "files"),  # runs made before have no such field
        limits=Limits(**data.limits),
    )
