"""A pickle machine that can run nothing: the opcodes, without any knowledge of checkpoints.

Built on the pure-Python `pickle._Unpickler`: hardly slower than the C one on snapshots (few opcodes, large byte
strings), its opcodes can be replaced by refusals, and its memo is a dict, where the C memo is an array that a nine-byte
file can grow to gigabytes. A global never becomes an object of this process: it stays the inert token `Global`, and
REDUCE looks the token up in the reader's own table, so that there is nothing on the stack that could be called.
"""

from __future__ import annotations

import pickle
import pickletools
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar, NoReturn, TypeVar, cast

from latentopt.checkpoints.pickle_limits import Budget, Foreign, Global, of_another_package, printable, untrusted
from latentopt.errors import CheckpointError

MAX_STRING_BYTES = 64 << 20  # protocol 2 writes a weight as text, at most twice its size
MAX_KEY = 2**32

Kind = TypeVar("Kind")


class RestrictedUnpickler(pickle._Unpickler):
    """Reads one stream. Subclasses give `globals`: an allowed global -> the method that REDUCE calls, or None."""

    stack: list[Any]  # these five, of pickle._Unpickler, are not in its published types
    append: Callable[[object], None]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[Any]  # {opcode: Step}, made below

    globals: ClassVar[dict[Global, str | None]] = {}
    newobj: ClassVar[dict[Global, Callable[[], object]]] = {}

    def __init__(self, file: BinaryIO, budget: Budget) -> None:
        super().__init__(file)
        self.budget = budget

    def refuse(self, asked_for: str) -> NoReturn:
        raise untrusted(self.budget.source, asked_for)

    def damaged(self, reason: str) -> NoReturn:
        raise CheckpointError(f"{self.budget.source}: damaged checkpoint ({reason})")

    def find_class(self, module: str, name: str) -> Global:
        """The token of an allowed global; never imports. Raises UntrustedFileError for any other."""
        token = Global(module, name)
        if token not in self.globals:
            if self.budget.foreign is None or not of_another_package(module):
                self.refuse(f"the global {printable(module)}.{printable(name)}")
            self.budget.foreign.add(token)
        return token

    def persistent_load(self, pid: object) -> object:
        self.refuse("a persistent id")

    def build(self, instance: object, state: object) -> None:
        """BUILD: refused, so that no attribute of anything can be shadowed. Subclasses let single types pass."""
        if type(instance) is not Foreign:  # whose state is dropped
            self.refuse(f"opcode BUILD on a {type(instance).__name__}")

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not Global or type(arguments) is not tuple:
            self.damaged("REDUCE without a global and its arguments")
        if function not in self.globals:
            self.stack[-1] = Foreign(function)
            return
        method = self.globals[function]
        if method is None:
            self.refuse(f"a call of {function.module}.{function.name}")
        self.stack[-1] = getattr(self, method)(*arguments)

    def _newobj(self) -> None:
        arguments = self.stack.pop()
        cls = self.stack.pop()
        if type(cls) is Global and cls not in self.globals and type(arguments) is tuple:
            self.append(Foreign(cls))
            return
        if type(cls) is not Global or arguments != ():
            self.damaged("NEWOBJ without a class")
        if cls not in self.newobj:
            self.refuse(f"a new object of {cls.module}.{cls.name}")
        self.append(self.newobj[cls]())

    def _build(self) -> None:
        state = self.stack.pop()
        self.build(self.stack[-1], state)

    def _inst(self) -> None:
        module = self.readline()[:-1].decode("utf-8", "replace")
        name = self.readline()[:-1].decode("utf-8", "replace")
        self.refuse(f"the global {printable(module)}.{printable(name)} (opcode INST)")

    def _text(self, width: str) -> None:
        (length,) = struct.unpack(width, self.read(struct.calcsize(width)))
        if length > MAX_STRING_BYTES:
            self.damaged(f"a text of {length} bytes")
        self.append(str(self.read(length), "utf-8", "surrogatepass"))

    def _bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        if length > sys.maxsize:
            self.damaged(f"a byte array of {length} bytes")
        self.append(self.read(length))  # the standard opcode allocates the claimed length before it reads

    def _top(self, kind: type[Kind], given: str) -> Kind:
        """The object on top of the stack, which must be of exactly that kind to take what is given."""
        top: object = self.stack[-1]
        if type(top) is not kind:
            self.damaged(f"{given} for a {type(top).__name__}")
        return top

    def _append(self) -> None:
        item = self.stack.pop()
        if not self._on_foreign():
            self._top(list, "items").append(item)

    def _appends(self) -> None:
        items = self.pop_mark()
        if not self._on_foreign():
            self._top(list, "items").extend(items)

    def _additems(self) -> None:
        items = self.pop_mark()
        self._check_keys(items)
        if not self._on_foreign():
            self._top(set, "items").update(items)

    def _setitem(self) -> None:
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def _setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list) -> None:
        if len(items) % 2:
            self.damaged("a key without its value")
        self._check_keys(items[::2])
        if not self._on_foreign():
            self._top(dict, "keys").update(zip(items[::2], items[1::2], strict=True))

    def _on_foreign(self) -> bool:
        return type(self.stack[-1]) is Foreign

    def _check_keys(self, keys: list) -> None:
        # Hashing deeply nested tuples overflows the interpreter's own stack; large integers can be made to collide.
        for key in keys:
            if not (type(key) is str or (type(key) in (int, bool) and abs(key) < MAX_KEY)):
                self.damaged(f"a {type(key).__name__} as a key")


# What the pickler writes in protocols 2 to 5; everything older, and everything that makes objects, is left out.
_KEPT = frozenset(
    name
    for line in (
        "PROTO STOP FRAME MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT",
        "BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_LIST EMPTY_DICT EMPTY_SET EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3",
        "BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL BINPERSID",
    )
    for name in line.split()
)

Step = Callable[[RestrictedUnpickler], None]

_REPLACED: dict[str, Step] = {
    "REDUCE": RestrictedUnpickler._reduce,
    "NEWOBJ": RestrictedUnpickler._newobj,
    "BUILD": RestrictedUnpickler._build,
    "INST": RestrictedUnpickler._inst,
    "SHORT_BINUNICODE": lambda reader: reader._text("<B"),
    "BINUNICODE": lambda reader: reader._text("<I"),
    "BINUNICODE8": lambda reader: reader._text("<Q"),
    "BYTEARRAY8": RestrictedUnpickler._bytearray8,
    "APPEND": RestrictedUnpickler._append,
    "APPENDS": RestrictedUnpickler._appends,
    "SETITEM": RestrictedUnpickler._setitem,
    "SETITEMS": RestrictedUnpickler._setitems,
    "ADDITEMS": RestrictedUnpickler._additems,
}


def _counted(run: Step) -> Step:
    def step(reader: RestrictedUnpickler) -> None:
        reader.budget.step()
        run(reader)

    return step


def _refused(name: str) -> Step:
    return lambda reader: reader.refuse(f"pickle opcode {name}")


def _dispatch_table() -> dict[int, Step]:
    table: dict[int, Step] = {}
    for opcode in pickletools.opcodes:
        code = ord(opcode.code)
        if opcode.name in _REPLACED:
            table[code] = _counted(_REPLACED[opcode.name])
        elif opcode.name in _KEPT:
            table[code] = _counted(cast(Step, pickle._Unpickler.dispatch[code]))
        else:
            table[code] = _refused(opcode.name)
    return table


RestrictedUnpickler.dispatch = _dispatch_table()
