"""Reading and writing ``.npz`` files that may come from anyone.

``numpy.load`` refuses pickles when asked to, but it believes the sizes that a file declares: a few
kilobytes can ask for terabytes. Here every size is checked before memory is taken, and a file is
written beside its place and renamed, so that no reader ever meets half of one.

    arrays = load_npz("clip.npz")
    save_npz("copy.npz", arrays)
"""

from __future__ import annotations

import os
import tempfile
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Union

import numpy as np

from asap_deploy.errors import InputError

PathLike = Union[str, Path]
MAX_BYTES = 1 << 30
"""Uncompressed size above which a file is refused."""

MAX_ARRAYS = 256
_LAST_LETTER = 0x10FFFF
"""Of Unicode; Python dies of larger ones with a SystemError."""

_KINDS = "biufSU"
"""Kinds of numbers and texts that a file may hold; objects would need a pickle."""


def load_npz(path: PathLike, *, max_bytes: int = MAX_BYTES) -> Dict[str, np.ndarray]:
    """Read every array of an npz file without running code or taking unbounded memory.

    Args:
        path: The file.
        max_bytes: Largest accepted sum of uncompressed sizes.

    Returns:
        Array by key.

    Raises:
        InputError: If the file is missing, damaged, too large or holds anything but plain arrays.
    """
    try:
        with zipfile.ZipFile(str(path)) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if len(members) > MAX_ARRAYS or total > max_bytes:
                raise InputError(
                    f"npz declares {len(members)} arrays and {total / 1e6:.0f} MB; at most "
                    f"{MAX_ARRAYS} arrays and {max_bytes / 1e6:.0f} MB are read",
                    file=path,
                )
            return {_key(m.filename): _read_member(archive, m, path) for m in members}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("file does not exist", file=path) from None
    except IsADirectoryError:
        raise InputError("expected an .npz file, got a folder", file=path) from None
    except (
        zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError,
        NotImplementedError, RuntimeError, MemoryError, SyntaxError, tokenize.TokenError,
        TypeError, OverflowError,
    ) as error:  # fmt: skip
        raise InputError(f"not a readable .npz file: {_brief(error)}", file=path) from None


def save_npz(path: PathLike, arrays: Mapping[str, Any]) -> None:
    """Write arrays to ``path`` at once or not at all (temporary file, then rename)."""
    write_atomic(path, lambda stream: np.savez_compressed(stream, **dict(arrays)))


def write_atomic(path: PathLike, write: Callable[[Any], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    Raises:
        InputError: If the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=str(path.parent))
    except OSError as error:
        raise InputError(f"cannot write here: {_brief(error)}", file=path) from None
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, str(path))
    except OSError as error:
        raise InputError(f"cannot write: {_brief(error)}", file=path) from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def write_file(path: PathLike, content: Union[bytes, str]) -> None:
    """Write ``content``, texts as UTF-8, at once or not at all.

    Raises:
        InputError: If the folder cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    write_atomic(path, lambda stream: stream.write(data))


def require_keys(
    arrays: Mapping[str, Any], required: Mapping[str, int], path: PathLike, what: str
) -> None:
    """Check that the keys are there with the number of axes that they should have.

    Args:
        arrays: What was read.
        required: Number of axes by key.
        path: Named in the error.
        what: What the file was expected to be, for the error.

    Raises:
        InputError: On a missing key or a wrong number of axes.
    """
    for key, ndim in required.items():
        if key not in arrays:
            held = ", ".join(list(arrays)[:12]) or "nothing"
            raise InputError(f"{what} lacks the key '{key}'; it holds {held}", file=path)
        if np.ndim(arrays[key]) != ndim:
            raise InputError(
                f"{what}: '{key}' has shape {np.shape(arrays[key])}, expected {ndim} axes",
                file=path,
            )


def check_finite(
    name: str, array: np.ndarray, path: Optional[PathLike] = None, *, limit: float = 1e6
) -> None:
    """Refuse NaN, infinity and absurdly large numbers.

    Raises:
        InputError: Naming the array and the first bad index.
    """
    bad = ~(np.abs(array) <= limit)  # False for NaN as well
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"'{name}' has {int(bad.sum())} non-finite or huge values, the first at {where}: "
            f"{array[where]}",
            file=path,
        )


def _key(filename: str) -> str:
    """The name of an array inside the archive, without its ending."""
    return filename[:-4] if filename.endswith(".npy") else filename


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: PathLike) -> np.ndarray:
    """One array: its header is read first and must agree with the size that the archive states."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise InputError(f"array '{member.filename}' has an unknown version", file=path)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(stream)
        if dtype.kind not in _KINDS or dtype.hasobject:
            raise InputError(
                f"array '{_key(member.filename)}' has type {dtype}; only plain numbers and text "
                "are read, pickled objects never",
                file=path,
            )
        count = 1
        for size in shape:
            count *= int(size)
        if count * dtype.itemsize > member.file_size:
            raise InputError(
                f"array '{_key(member.filename)}' declares shape {shape} but holds "
                f"{member.file_size} bytes",
                file=path,
            )
        raw = stream.read(count * dtype.itemsize)
    if len(raw) != count * dtype.itemsize:
        raise InputError(f"array '{_key(member.filename)}' is cut short", file=path)
    if dtype.kind == "U" and (np.frombuffer(raw, dtype.byteorder + "u4") > _LAST_LETTER).any():
        raise InputError(f"array '{_key(member.filename)}' holds what is no text", file=path)
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C").copy()


def _brief(error: BaseException) -> str:
    """The first line of an error, short enough for one line of ours."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]
