"""What a path holds, sorted into clips, refusals and bystanders; runs in the child (`child.py`).

    listing = collect("/data/clips", Limits())
    listing.entries, listing.skipped, listing.ignored

Only names and, of pictures and arrays, headers are read. Whatever an archive, a header or a name
claims is bounded: a file beyond a bound is refused by name, an archive beyond one as a whole.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from vidgen.data import archives
from vidgen.data.archives import ARRAYS, PICTURES, VIDEOS, Member
from vidgen.data.arrays import list_clips, strip_shape
from vidgen.data.captions import Captions, is_text
from vidgen.data.decoder import picture_header
from vidgen.data.entry import Entry
from vidgen.data.faults import of_the_moment
from vidgen.data.faults import why as why_of
from vidgen.data.limits import CLIPS, LABEL, MEMBERS, OF_ARRAY, Limits
from vidgen.data.manifest import Row, read_manifest
from vidgen.text import legible, plain, printable
from vidgen.video.containers import starts_like_video
from vidgen.video.decoding import Unreadable, reason
from vidgen.video.sequences import in_order, sequences

Seen = TypeVar("Seen")
_HEADERS = 4  # pictures of a folder of which one must have a header


def collect(
    root: str,
    limits: Limits,
    tell: Callable[[str | None], None] = lambda name: None,
    bad: dict[str, str] | None = None,
) -> "Listing":
    """Lists a path.

    Args:
      root: An absolute path: a folder, an archive, a manifest or a single file.
      limits: What one file may cost.
      tell: Called with a name before that file is looked into, and with None after that and now and
        then: who looks at the clock may wind it.
      bad: Names that are known to be of no use, with the reasons; they are not looked into.

    Raises:
      Unreadable: It is nothing that can be listed, or an archive that is damaged or beyond a bound.
      OSError: It is not there, cannot be read, or the system fails now.
    """
    listing = Listing(limits, tell, bad or {})
    try:
        kind = _kind(root)
        if kind == "folder":
            listing.take(archives.walk(root, listing.refuse), root, None)
        elif kind == "csv":
            listing.take_rows(read_manifest(root), os.path.dirname(root))
        elif kind in ("zip", "tar"):
            opened = archives.zip_members if kind == "zip" else archives.tar_members
            with opened(root, listing.refuse, limits) as members:
                listing.take(members, root, kind)
        else:
            listing.single(root, kind)
    except archives.DAMAGE as error:
        raise Unreadable(str(error)) from error
    return listing


def _kind(root: str) -> str:
    """Returns folder, zip, tar, csv, or the suffix of a single file."""
    mode = os.stat(root).st_mode
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise Unreadable(f"is neither a folder nor a file ({archives.file_type(mode)})")
    suffix = archives.suffix(root)
    if suffix == "csv":
        return "csv"
    if suffix in ARRAYS:  # .npz is a zip as well
        return suffix
    if archives.is_tar(root):  # first: one that ends with an .npz is a zip to is_zipfile
        return "tar"
    return "zip" if zipfile.is_zipfile(root) else suffix


class Listing:
    """Collects entries, and what is refused, while a root is listed.

    Attributes:
      entries: The clips, in no order.
      skipped: `(name, reason)` of what looked like a clip and is none.
      ignored: Number of files that do not look like clips.
    """

    def __init__(self, limits: Limits, tell: Callable[[str | None], None], bad: dict[str, str]):
        self.entries: list[Entry] = []
        self.skipped: list[tuple[str, str]] = []
        self.ignored = 0
        self._limits, self._tell, self._bad = limits, tell, bad
        self._captions = Captions()
        self._seen: dict[str, Any] = {}  # what was seen ahead: see `_look_ahead`

    def refuse(self, name: str, why: str) -> None:
        """Notes a file that is of no use."""
        self.skipped.append((plain(printable(name), 200), legible(why)))

    def _add(self, name: str, ref: dict[str, Any], stamp: tuple[int, int], **more: Any) -> None:
        if len(self.entries) >= CLIPS:
            raise Unreadable(f"holds more than {CLIPS} clips; give parts of it")
        self.entries.append(Entry(name=printable(name), ref=ref, stamp=stamp, **more))

    def _look(
        self,
        name: str,
        job: Callable[[], Seen],
        said: Callable[[BaseException], str] = reason,
        told: bool = True,
    ) -> Seen:
        """Returns what a look into a file gives.

        Args:
          name: Of the file.
          job: Looks into it.
          said: Returns why it is of no use, of what `job` raises.
          told: Whether its name is told, which takes longer than to read a short text.

        Raises:
          Unreadable: It is of no use.
          OSError: The system fails now.
        """
        name = printable(name)
        if name in self._bad:
            raise Unreadable(self._bad[name])
        self._tell(name if told else None)
        try:
            seen = job()
        except Exception as error:
            # Whatever a header makes a reader raise is this file's reason, as in `child.py`.
            if of_the_moment(error):
                self._tell(name)
                raise  # and its name is what was told last
            self._tell(None)
            raise Unreadable(said(error)) from error
        self._tell(None)
        return seen

    def take(self, members: Iterable[Member], root: str, archive: str | None) -> None:
        """Sorts the files of a folder or archive into clips, refusals and bystanders."""
        folders: dict[str, list[Member]] = {}
        for count, member in enumerate(members):
            self._tell(None)
            if count >= MEMBERS:
                raise Unreadable(f"holds more than {MEMBERS} files; give parts of it")
            folders.setdefault(os.path.dirname(member.name), []).append(member)
        ref = functools.partial(_ref, root, archive)
        sorted_folders = [(folder, self._kinds(files)) for folder, files in sorted(folders.items())]
        if archive == "tar":
            self._look_ahead([kinds for _, kinds in sorted_folders], ref)
        for folder, kinds in sorted_folders:
            self._tell(None)
            self._take_folder(folder, kinds, ref)
        look = functools.partial(self._look, told=False)
        captions, used = self._captions.of(self.entries, look, self.refuse)
        self.ignored -= used
        for n, text in captions.items():
            self.entries[n] = dataclasses.replace(self.entries[n], caption=text)
        self._name_classes(wrapped=archive is not None and self._one_folder())

    def _look_ahead(self, folders: list[dict[str, list[Member]]], ref: Callable[..., dict]) -> None:
        """Looks into all files of a tar that will be looked into, in the order in which they lie.

        A compressed tar is read anew from its beginning where one goes back in it.
        """
        arrays = [file for kinds in folders for file in kinds["array"]]
        pictures = [file for kinds in folders for file in kinds["picture"][:_HEADERS]]
        for files, look in ((arrays, self._array_clips), (pictures, self._header)):
            for file in sorted(files, key=lambda file: file.place or (0, 0)):
                try:
                    seen: Any = look(file, ref)
                except Unreadable as error:
                    seen = error
                self._seen[file.name] = seen

    def _seen_of(self, look: Callable[..., Any], file: Member, ref: Callable[..., dict]) -> Any:
        seen = self._seen.pop(file.name) if file.name in self._seen else look(file, ref)
        if isinstance(seen, Unreadable):
            raise seen
        return seen

    def _one_folder(self) -> bool:
        """Tells whether one folder wraps all clips, and is not itself their class.

        It is their class if nothing below it tells them apart: no folder, no label of their own.
        """
        parts = [entry.name.split("/") for entry in self.entries]
        return (
            len({p[0] for p in parts}) == 1
            and all(len(p) >= 2 for p in parts)
            and (any(len(p) >= 3 for p in parts) or any(e.label for e in self.entries))
        )

    def _name_classes(self, wrapped: bool) -> None:
        """Labels each clip that has no label of its own with the first folder in its name."""
        for n, entry in enumerate(self.entries):
            parts = entry.name.split("/")[wrapped:]
            label = parts[0] if entry.label is None and len(parts) > 1 else entry.label
            self.entries[n] = dataclasses.replace(entry, name="/".join(parts), label=label)

    def _kinds(self, files: list[Member]) -> dict[str, list[Member]]:
        """Sorts the files of a folder by what they are, each kind in the order of their numbers."""
        kinds: dict[str, list[Member]] = {"video": [], "picture": [], "array": []}
        named = {member.name: member for member in files}
        stems = {os.path.splitext(name)[0] for name in named if archives.telling(name)}
        for file in (named[name] for name in in_order(named)):
            suffix = archives.suffix(file.name)
            if suffix in VIDEOS:
                kinds["video"].append(file)
            elif suffix in PICTURES:
                kinds["picture"].append(file)
            elif suffix in ARRAYS:
                kinds["array"].append(file)
            elif suffix in archives.SOUNDS:
                self.ignored += 1
            elif is_text(file.name) and os.path.splitext(file.name)[0] in stems:
                self.ignored += 1
                self._captions.note(file)
            else:
                try:
                    video = starts_like_video(self._look(file.name, file.head))
                except Unreadable as error:
                    self.refuse(file.name, str(error))
                    continue
                if video:
                    kinds["video"].append(file)
                else:
                    self.ignored += 1
                    self._captions.note(file)
        return kinds

    def _take_folder(
        self, folder: str, kinds: dict[str, list[Member]], ref: Callable[..., dict]
    ) -> None:
        for file in kinds["video"]:
            self._add(file.name, ref("video", file), file.stamp)
        for file in kinds["array"]:
            self._arrays(file, ref)
        if kinds["picture"]:
            self._pictures(folder, kinds["picture"], bool(kinds["video"]), ref)

    def _header(self, file: Member, ref: Callable[..., dict]) -> dict[str, int]:
        place = ref("strip", file)
        return self._look(file.name, lambda: picture_header(place, self._limits), why_of)

    def _pictures(
        self, folder: str, files: list[Member], videos: bool, ref: Callable[..., dict]
    ) -> None:
        """Tells strips, animations and the frames of one clip apart, by the first good header."""
        header = None
        for file in files[:_HEADERS]:
            try:
                header = self._seen_of(self._header, file, ref)
                break
            except Unreadable as error:
                why = str(error)
        if header is None:
            self.refuse(files[0].name, why)
            if len(files) > 1:
                self.refuse(
                    folder or ".", f"{len(files) - 1} more pictures beside an unreadable one"
                )
        elif header["frames"] > 1:
            for file in files:
                self._add(file.name, ref("video", file), file.stamp)
        elif strip_shape(header["width"], header["height"])[1]:
            for file in files:
                self._add(file.name, ref("strip", file), file.stamp)
        elif len(files) == 1:
            self.refuse(files[0].name, "is a single still picture, not a clip")
        elif videos:
            self.refuse(folder or ".", f"{len(files)} still pictures beside videos are no clip")
        elif any(not any(c.isdigit() for c in os.path.basename(f.name)) for f in files):
            self.refuse(folder or ".", f"{len(files)} still pictures that are not numbered frames")
        else:
            self._sequences(folder, {f.name: f for f in files}, ref)

    def _sequences(self, folder: str, files: dict[str, Member], ref: Callable[..., dict]) -> None:
        """Takes the numbered frames of a folder: of one clip, or of several side by side."""
        taken: dict[tuple[str, ...], str] = {}
        clips = []
        for title, names in sequences(files).items():
            name = f"{folder} [{title}]".strip() if title else folder or "."
            stems = tuple(os.path.splitext(n)[0] for n in names)
            if len(names) == 1:
                self.refuse(names[0], "is a single still picture, not a clip")
            elif stems in taken:
                self.refuse(name, f"are the frames of {taken[stems]} again, in another format")
            else:
                taken[stems] = name
                clips.append((name, [files[n] for n in names]))
        for name, some in clips:
            # Of every frame, so that one replaced by an older one, or two swapped, are noticed.
            every = json.dumps([(f.name, f.stamp) for f in some]).encode()
            digest = int(hashlib.sha256(every).hexdigest()[:16], 16)
            name = name if len(clips) > 1 else folder or "."
            self._add(name, ref("frames", *some), (sum(f.stamp[0] for f in some), digest))

    def _array_clips(self, file: Member, ref: Callable[..., dict], suffix: str = "") -> list[tuple]:
        del ref
        suffix = suffix or archives.suffix(file.name)

        def read() -> list[tuple]:
            size = file.stamp[0]
            with file.open() as opened:
                if suffix == "npz" and file.packed:  # a zip is read from its end
                    most = self._limits.bytes
                    if size > most:
                        raise Unreadable(
                            f"has {size} bytes in its archive, data.limits.bytes={most}"
                        )
                    opened = io.BytesIO(opened.read(size + 1))
                clips = list(itertools.islice(list_clips(opened, suffix, size), OF_ARRAY + 1))
                if len(clips) > OF_ARRAY:
                    raise Unreadable(f"holds more than {OF_ARRAY} clips")
                return [(key, n, None if name is None else _label(name)) for key, n, name in clips]

        return self._look(file.name, read)

    def _arrays(self, file: Member, ref: Callable[..., dict], suffix: str = "") -> None:
        look = functools.partial(self._array_clips, suffix=suffix)
        try:
            clips = self._seen_of(look, file, ref)
        except Unreadable as error:
            self.refuse(file.name, str(error))
            return
        for key, index, label in clips:
            more = {} if label is None else {"label": label}
            place = ref("array", file) | {"key": key, "index": index}
            name = file.name if index is None else f"{file.name}[{index}]"
            self._add(name, place, file.stamp, **more)

    def take_rows(self, rows: list[Row], root: str) -> None:
        """Takes the clips that a manifest names, with paths relative to `root`."""
        for row in rows:
            try:
                if not row.path:
                    raise Unreadable("has no path")
                self.single(
                    os.path.join(root, row.path),
                    archives.suffix(row.path),
                    row.name,
                    label=None if row.label is None else _label(row.label),
                    caption=row.caption,
                    start=row.start,
                    end=row.end,
                    cells=row.cells,
                )
            except (Unreadable, OSError) as error:
                if of_the_moment(error):
                    raise
                self.refuse(row.name, f"line {row.line}: {reason(error)}")

    def single(self, path: str, suffix: str, name: str | None = None, **more: Any) -> None:
        """Takes one file, or one folder of numbered frames, that is named by itself."""
        name = name or os.path.basename(path)
        before = len(self.entries)
        self._tell(None)
        if os.path.isdir(path):
            self._single_folder(path, name)
        elif not os.path.isfile(path):
            mode = os.stat(path).st_mode
            raise Unreadable(f"is not a regular file ({archives.file_type(mode)})")
        else:
            member = archives.on_disk(path, name)
            if suffix in ARRAYS:
                self._arrays(member, lambda kind, _: {"kind": kind, "path": path}, suffix)
            else:
                place = {"kind": "strip", "path": path}
                still = suffix in PICTURES and suffix not in ("webp", "apng", "avif")
                if not still or self._header(member, lambda *_: place)["frames"] > 1:
                    place["kind"] = "video"
                self._add(name, place, member.stamp)
        self.entries[before:] = [
            dataclasses.replace(entry, **more) for entry in self.entries[before:]
        ]

    def _single_folder(self, path: str, name: str) -> None:
        """Takes a folder of numbered frames; what lies deeper in it is not looked at."""
        inner = Listing(self._limits, self._tell, self._bad)
        files = archives.walk(path, inner.refuse, deep=False)
        inner.take((file for file in files if archives.telling(file.name)), path, None)
        frames = [entry for entry in inner.entries if entry.ref["kind"] == "frames"]
        if len(inner.entries) != 1 or not frames:
            found = ", ".join(entry.name for entry in inner.entries[:4])
            raise Unreadable(
                "is a folder, but not one of numbered frames"
                + (f": it holds {found}" if found else "")
            )
        for other, why in inner.skipped:
            self.refuse(f"{name}/{other}", why)
        self._add(name, frames[0].ref, frames[0].stamp)


def _label(text: str) -> str:
    if len(text) > LABEL:
        raise Unreadable(f"its label has {len(text)} characters, more than {LABEL}")
    return legible(text)


def _ref(root: str, archive: str | None, kind: str, *files: Member) -> dict[str, Any]:
    """Returns the place of files below a root, for the decoder."""
    names = [file.name for file in files]
    if archive is None and kind != "frames":
        return {"kind": kind, "path": os.path.join(root, names[0])}
    place: dict[str, Any] = {"kind": kind, "path": root}
    place |= {"files": names} if kind == "frames" else {"member": names[0]}
    if archive is not None:
        place["archive"] = archive
    if archive == "tar":
        place["places"] = {file.name: file.place for file in files}
    return place
