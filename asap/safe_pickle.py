"""Reading pickles that may come from anyone, without running what they say.

A pickle is a program. Here it is interpreted by a small machine of our own that knows numbers,
text, lists, dicts and numpy arrays, and nothing else: there is no import, no call and no object
that the file could name. joblib's files (array bytes between the instructions, the whole possibly
compressed) are read the same way, without joblib.

    clips = load_pickle("CR7_level1.pkl")            # {clip: {"dof": array (T, 23), ...}}
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from asap_deploy.errors import InputError

MAX_BYTES = 64 << 20
"""Largest file, and largest content after decompression [bytes]."""

MAX_INSTRUCTIONS = 300_000
"""Instructions of the pickle machine; an array takes about 40."""

MAX_DEPTH = 24
"""Nesting of lists and dicts."""

_MARK = object()
_LEAVES = (bool, int, float, bytes, bytearray, np.ndarray)
_DTYPE_TEXT = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU]\d{1,6})")
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_MEANINGS = {
    ("numpy", "dtype"): "dtype",
    ("numpy", "ndarray"): "ndarray",
    **{(module, "_reconstruct"): "empty array" for module in _NUMPY},
    **{(module, "scalar"): "scalar" for module in _NUMPY},
    **{(module, "_frombuffer"): "array" for module in _NUMERIC},
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): "joblib array",
    ("collections", "OrderedDict"): "dict",
    ("_codecs", "encode"): "bytes of text",
    **{(m, n): "bytes" for m in ("builtins", "__builtin__") for n in ("bytes", "bytearray")},
}
"""The only names that a file may use, and what our machine makes of each; none is ever called."""


class _Refused(Exception):
    """The pickle asks for something that is not data."""


class _Name(str):
    """One of the meanings above, on the stack of the machine."""

    __slots__ = ()


class _Array:
    """An array whose content arrives later in the stream."""

    def __init__(self, *, inline: bool) -> None:
        self.inline = inline
        self.value: np.ndarray | None = None


class _Dtype:
    """A numpy type whose byte order arrives later in the stream."""

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str) or not _DTYPE_TEXT.fullmatch(text):
            raise _Refused(f"arrays of type {str(text)[:40]!r} are not read, only plain numbers")
        self.value = np.dtype(text)


def load_pickle(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read a pickle or joblib file as plain data.

    Args:
        path: The file; zlib, gzip, bz2 and xz compression are recognised by content.
        max_bytes: Largest accepted size, of the file and of what it expands to.

    Returns:
        dict, list, tuple, str, bytes, int, float, bool, None and numpy arrays (read-only).

    Raises:
        InputError: If the file is damaged, too large, or holds anything but data.
    """
    data = read_bytes(path, max_bytes=max_bytes)
    try:
        machine = _Machine(_decompressed(data, max_bytes))
        return machine.run()
    except _Refused as error:
        raise InputError(f"pickle refused: {error}", file=path) from None
    except (
        ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError,
        EOFError, OSError, AssertionError, RecursionError, struct.error, zlib.error, lzma.LZMAError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"not a readable pickle file: {reason}", file=path) from None


def read_bytes(path: str | Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a file of bounded size.

    Raises:
        InputError: If the file is missing, a folder, unreadable or too large.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError("expected a file, got a folder", file=path)
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("file does not exist", file=path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read: {error}", file=path) from None
    if len(data) > max_bytes:
        raise InputError(f"file is larger than {max_bytes >> 20} MB; split the clip", file=path)
    return data


def looks_like_pickle(head: bytes) -> bool:
    """True if the first bytes of a file are those of a pickle, plain or compressed."""
    packed = _is_zlib(head) or head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head[:2] == b"\xfd7"
    return packed or head[:1] in (b"\x80", b"}") or head[:2] in (b"(d", b"(l")


def _is_zlib(head: bytes) -> bool:
    """The two header bytes of zlib check each other (RFC 1950); a text with 'x' fails."""
    return head[:1] == b"\x78" and len(head) > 1 and (head[0] * 256 + head[1]) % 31 == 0


def _decompressed(data: bytes, max_bytes: int) -> bytes:
    """The content of a compressed file, never more than ``max_bytes`` of it."""
    if _is_zlib(data[:2]) or data[:2] == b"\x1f\x8b":
        machine: Any = zlib.decompressobj(wbits=47)  # zlib or gzip, told apart by the header
        content = machine.decompress(data, max_bytes + 1)
    elif data[:3] == b"BZh":
        machine = bz2.BZ2Decompressor()
        content = machine.decompress(data, max_bytes + 1)
    elif data[:6] == b"\xfd7zXZ\x00":
        machine = lzma.LZMADecompressor(memlimit=max_bytes)
        content = machine.decompress(data, max_bytes + 1)
    else:
        return data
    if len(content) > max_bytes:
        raise _Refused(f"it expands to more than {max_bytes >> 20} MB")
    if not machine.eof:
        raise EOFError("compressed data is cut short")
    return content


class _Machine:
    """The stack machine of a pickle, reduced to data."""

    def __init__(self, content: bytes) -> None:
        self.stream = io.BytesIO(content)
        self.size = len(content)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.plain: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute until STOP and return the data on top of the stack."""
        # genops decodes one instruction at a time and looks up nothing, so that the raw bytes of
        # a joblib array may be taken from the stream between two instructions.
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.stream)):
            if count >= MAX_INSTRUCTIONS:
                raise _Refused(f"more than {MAX_INSTRUCTIONS} instructions")
            if opcode.name == "STOP":
                return self.finished(self.stack.pop(), 0)
            if opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _LITERALS:
                self.stack.append(argument)
            elif opcode.name in _ACTIONS:
                _ACTIONS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise _Refused(f"instruction {opcode.name} is not data")
        raise EOFError("no STOP instruction")

    def since_mark(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def push_name(self, module: str, name: str) -> None:
        """A global name becomes its meaning; any other name ends the reading."""
        meaning = _MEANINGS.get((str(module), str(name)))
        if meaning is None:
            raise _Refused(
                f"it asks for '{str(module)[:60]}.{str(name)[:60]}', which could run code; only "
                "numbers, text, lists, dicts and numpy arrays are read"
            )
        self.stack.append(_Name(meaning))

    def call(self, _: Any) -> None:
        """REDUCE and NEWOBJ: make the datum that the name stands for."""
        arguments = self.stack.pop()
        name = self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise _Refused("a call of something that is not a name")
        self.stack.append(self.made(str(name), arguments))

    def made(self, meaning: str, arguments: tuple[Any, ...]) -> Any:
        """The datum for one of our meanings."""
        if meaning == "dtype":
            return _Dtype(arguments[0])
        if meaning in ("empty array", "joblib array"):
            return _Array(inline=meaning == "joblib array")
        if meaning == "scalar":
            return np.frombuffer(_raw(arguments[1]), _dtype(arguments[0]), 1)[0].item()
        if meaning == "array":
            raw, dtype, shape, order = arguments
            return _shaped(_raw(raw), dtype, shape, order == "F")
        if meaning == "bytes of text" and arguments[1] in ("latin1", "latin-1"):
            return arguments[0].encode("latin-1")
        if meaning == "bytes" and (not arguments or isinstance(arguments[0], bytes)):
            return arguments[0] if arguments else b""
        if meaning == "dict" and not arguments:
            return {}
        raise _Refused(f"'{meaning}' with these arguments is not data")

    def build(self, _: Any) -> None:
        """BUILD: the state of the array or type below it."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Dtype):
            if any(part is not None for part in state[2:5]):
                raise _Refused("structured arrays are not read")
            if state[1] in ("<", ">"):
                target.value = target.value.newbyteorder(state[1])
        elif isinstance(target, _Array) and target.inline:
            target.value = self.inline_array(state)
        elif isinstance(target, _Array):
            _, shape, dtype, fortran, raw = state
            target.value = _shaped(_raw(raw), dtype, shape, bool(fortran))
        else:
            raise _Refused("an object with a state is not data")

    def inline_array(self, state: dict[str, Any]) -> np.ndarray:
        """An array whose bytes joblib wrote right behind the instruction, perhaps after padding."""
        if state["subclass"] != "ndarray":
            raise _Refused("arrays of a subclass are not read")
        dtype, shape = _dtype(state["dtype"]), _shape(state["shape"])
        if state.get("numpy_array_alignment_bytes") is not None:
            self.stream.read(self.stream.read(1)[0])
        count = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if count > self.size:
            raise _Refused(f"an array declares {count} bytes, the file holds {self.size}")
        return _shaped(self.stream.read(count), state["dtype"], shape, state["order"] == "F")

    def set_items(self, pairs: list[Any]) -> None:
        """Fill the dict on top of the stack."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise _Refused("items are set on something that is not a dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise _Refused("a key is neither text nor a whole number")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        """Fill the list on top of the stack."""
        if not isinstance(self.stack[-1], list):
            raise _Refused("items are appended to something that is not a list")
        self.stack[-1].extend(items)

    def finished(self, item: Any, depth: int) -> Any:
        """Replace placeholders by arrays; each shared item is visited once."""
        if isinstance(item, _Array):
            if item.value is None:
                raise EOFError("an array has no content")
            return item.value
        if item is None or type(item) is str or isinstance(item, _LEAVES):
            return item
        if not isinstance(item, (dict, list, tuple)):
            raise _Refused(f"a bare {type(item).__name__.strip('_').lower()} is not data")
        if depth >= MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH}")
        if id(item) not in self.plain:
            if isinstance(item, dict):
                done: Any = {k: self.finished(v, depth + 1) for k, v in item.items()}
            else:
                done = type(item)([self.finished(v, depth + 1) for v in item])
            # The original is kept beside the result, so that its id cannot be used again.
            self.plain[id(item)] = (item, done)
        return self.plain[id(item)][1]


def _raw(content: Any) -> bytes:
    """The bytes of an array; Python 2 wrote them as text."""
    if isinstance(content, str):
        return content.encode("latin-1")
    if not isinstance(content, (bytes, bytearray)):
        raise _Refused("an array of objects is not data")
    return bytes(content)


def _dtype(item: Any) -> np.dtype:
    """The numpy type that a placeholder stands for."""
    if not isinstance(item, _Dtype):
        raise _Refused("an array without a type")
    return item.value


def _shape(item: Any) -> tuple[int, ...]:
    """A shape of whole numbers, at most 8 axes."""
    shape = item if isinstance(item, tuple) else (item,)
    if len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise _Refused(f"an array declares the shape {str(shape)[:60]}")
    return shape


def _shaped(raw: bytes, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
    """A read-only array over bytes that are already in memory: no copy, hence no amplification."""
    numpy_type, shape = _dtype(dtype), _shape(shape)
    if int(np.prod(shape, dtype=object)) * numpy_type.itemsize != len(raw):
        raise EOFError(f"array of shape {shape} has {len(raw)} bytes")
    return np.frombuffer(raw, numpy_type).reshape(shape, order="F" if fortran else "C")


def _stack_global(machine: _Machine, _: Any) -> None:
    """STACK_GLOBAL: module and name are the two texts on top of the stack."""
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.push_name(module, name)


def _last(machine: _Machine, count: int) -> None:
    """TUPLE1, TUPLE2, TUPLE3."""
    if len(machine.stack) < count:
        raise IndexError("stack is empty")
    items = tuple(machine.stack[-count:])
    del machine.stack[-count:]
    machine.stack.append(items)


def _dict(machine: _Machine, _: Any) -> None:
    """DICT: everything since the mark, in pairs."""
    pairs = machine.since_mark()
    machine.stack.append({})
    machine.set_items(pairs)


def _memoize(machine: _Machine, key: int | None) -> None:
    """PUT and MEMOIZE: remember the top of the stack."""
    machine.memo[len(machine.memo) if key is None else int(key)] = machine.stack[-1]


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK, "EMPTY_TUPLE": ()}
_LITERALS = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
))  # fmt: skip
_ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "LIST": lambda m, _: m.stack.append(m.since_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: _last(m, 1),
    "TUPLE2": lambda m, _: _last(m, 2),
    "TUPLE3": lambda m, _: _last(m, 3),
    "DICT": _dict,
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items(list(_popped(m, 2))),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "POP": lambda m, _: _popped(m, 1),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "GLOBAL": lambda m, text: m.push_name(*text.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda m, key: m.stack.append(m.memo[int(key)])
    ),
}


def _popped(machine: _Machine, count: int) -> tuple[Any, ...]:
    """Remove ``count`` items from the top of the stack."""
    _last(machine, count)
    return machine.stack.pop()
