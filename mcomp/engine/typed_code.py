"""The code of a stage that was typed into a notebook or at a prompt: no file says what it does. No torch.

Its digest is over the byte code of the class and of everything that this reaches: base classes, attributes, closures,
and the globals that functions read, from other cells too. What lies in files counts as it does for a stage in a file:
a person's own modules and mcomp's by their tokens, the standard library and installed packages not at all. A value
of which nobody can tell whether it is the same tomorrow (a live model, an open file) makes the whole unsure: the digest
is then one that no other process has, and the stage is never a hit.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, ClassVar

from mcomp.engine.code_digest import Reader
from mcomp.engine.own_code import PACKAGE, installed

_READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_PLAIN = (str, bytes, bool, int, float, complex, type(None), type(...), range, slice, PurePath, re.Pattern)
#: What Python and pydantic keep in a class that its author did not write.
_BOOKKEEPING = re.compile(
    r"__(module|dict|weakref|doc|qualname|annotations|annotate|annotate_func|annotations_cache|firstlineno|"
    r"static_attributes|orig_bases|parameters|abstractmethods|signature|class_vars|private_attributes|classcell|"
    r"pydantic_\w+|dataclass_\w+)__|_abc_\w+"
)


class Unsure(Exception):
    """Something that cannot be digested, in words."""


def typed_code(cls: type, reader: Reader) -> tuple[str, str]:
    """Digest of a class that lies in no file, and what in it cannot be digested, in words; empty where all can."""
    walk = _Walk(reader)
    digest = hashlib.sha256()
    try:
        for text in walk.parts(cls, cls.__qualname__):
            digest.update(text.encode() + b"\0")
        for name, found in sorted(walk.files().items()):
            digest.update(f"{name} {found}".encode() + b"\0")
    except (Unsure, RecursionError) as error:
        return secrets.token_hex(32), str(error) if isinstance(error, Unsure) else f"`{cls.__qualname__}`"
    return digest.hexdigest(), ""


class _Walk:
    """Goes through what a class reaches; each thing once, so that cycles end."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._met: dict[int, int] = {}
        self._alive: list[object] = []  # an id is one thing's only while that lives
        self._imports: set[str] = set()
        self._modules: dict[str, Path] = {}

    def files(self) -> dict[str, str]:
        """Token digests of the modules that were met, by name."""
        found = self._reader.behind("\n".join(sorted(self._imports)))
        for name, path in self._modules.items():
            inside = name.partition(".")[0] if "." in name or path.name == "__init__.py" else None
            found |= {f"{name}: {part}": digest for part, digest in self._reader.closure(path, inside).items()}
        return found

    def parts(self, value: Any, name: str) -> Iterator[str]:
        """What tells ``value``, which is called ``name``, from another."""
        if isinstance(value, _PLAIN) and not isinstance(value, Enum):
            yield f"{type(value).__name__} {value!r}"
            return
        if not isinstance(value, tuple | frozenset):  # of those, equal ones may or may not be one and the same
            if id(value) in self._met:
                yield f"again {self._met[id(value)]}"
                return
            self._met[id(value)] = len(self._met)
        self._alive.append(value)
        for kind, tell in self._TELL.items():
            if isinstance(value, kind):
                yield f"{kind.__name__}"
                yield from tell(self, value, name)
                return
        yield from self._object(value, name)

    def _function(self, function: FunctionType, name: str) -> Iterator[str]:
        if self._in_a_file(function.__module__, function.__qualname__):
            yield f"{function.__module__}.{function.__qualname__}"
            return
        yield from self._code(function.__code__, function.__globals__)
        yield from self.parts(function.__defaults__, name)
        yield from self.parts(function.__kwdefaults__, name)
        for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # not filled yet, as `__class__` while its class is made
                continue
            yield from self.parts(content, free)
        yield from self.parts({key: one for key, one in vars(function).items() if key != "__wrapped__"}, name)

    def _code(self, code: CodeType, names: dict[str, Any]) -> Iterator[str]:
        yield repr((code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_flags))
        yield code.co_code.hex()
        package = str(names.get("__package__") or "")
        for constant in code.co_consts:
            yield from self._code(constant, names) if isinstance(constant, CodeType) else self.parts(constant, "")
        yield code.co_exceptiontable.hex()
        for module, taken in _imports(code):
            self._note_import(module, taken, package)
        reads = {one.argval for one in dis.get_instructions(code) if one.opname in _READS}
        for read in sorted(reads & names.keys()):
            yield read
            yield from self.parts(names[read], read)

    def _class(self, cls: type, name: str) -> Iterator[str]:
        yield f"{cls.__module__}.{cls.__qualname__}"
        if self._in_a_file(cls.__module__, cls.__qualname__):
            return
        for base in cls.__bases__:
            yield from self.parts(base, base.__qualname__)
        yield from self.parts(type(cls), type(cls).__qualname__)
        for key, value in sorted(vars(cls).items()):
            if _BOOKKEEPING.fullmatch(key) or type(value).__name__ in _SLOTS:
                continue
            yield key
            yield from self.parts(value, f"{name}.{key}")
        for field, info in sorted(getattr(cls, "__pydantic_fields__", {}).items()):
            yield f"{field} {info!r}"
            yield from self.parts(getattr(info, "default_factory", None), f"{name}.{field}")

    def _module(self, module: ModuleType, name: str) -> Iterator[str]:
        yield module.__name__
        if not self._in_a_file(module.__name__, None):
            raise Unsure(f"`{name}`, a module without a file,")

    def _object(self, value: Any, name: str) -> Iterator[str]:
        """An instance: its class and its attributes."""
        cls = type(value)
        yield from self.parts(cls, cls.__qualname__)
        array = getattr(value, "tobytes", None)
        if cls.__module__ == "numpy" and array is not None and not getattr(value.dtype, "hasobject", True):
            yield f"{value.dtype} {value.shape} {hashlib.sha256(array()).hexdigest()}"
        elif isinstance(value, Enum):
            yield f"{value.name} {value.value!r}"
        elif _is_installed(cls) or not hasattr(value, "__dict__"):
            yield from self._reduced(value, f"`{name}` ({cls.__name__})", name)
        else:
            yield from self.parts(dict(sorted(vars(value).items())), name)

    def _reduced(self, value: Any, words: str, name: str) -> Iterator[str]:
        """An object of an installed class, by what pickle would make it anew from."""
        try:
            found = value.__reduce_ex__(2)
        except Exception as error:  # an open file, a lock, a generator
            raise Unsure(words) from error
        if isinstance(found, str):
            yield found
            return
        maker, args, state, *items = [*found, *(None,) * (5 - len(found))][:5]
        if type(value).__module__.partition(".")[0] == "torch":  # where a tensor lies differs from process to process
            raise Unsure(words)
        yield f"{maker.__module__}.{maker.__qualname__}"
        for part in (args, state, *(None if one is None else list(one) for one in items)):
            yield from self.parts(part, name)

    def _in_a_file(self, module: str | None, qualname: str | None) -> bool:
        """Whether the code of a module lies in a file; of mcomp's and the person's own it is noted, to be read."""
        top = (module or "").partition(".")[0]
        if top in sys.stdlib_module_names and top != "__main__":
            return True
        file = getattr(sys.modules.get(module or ""), "__file__", None)
        if file is None:
            return getattr(sys.modules.get(top), "__file__", None) is not None  # part of a compiled package
        path = Path(file)
        if path.is_relative_to(PACKAGE):
            taken = None if qualname is None else qualname.partition(".")[0]
            self._imports.add(f"import {module}" if taken is None else f"from {module} import {taken}")
        elif not installed(path) and path.suffix == ".py":
            self._modules[str(module)] = path
        return True

    def _note_import(self, module: str, taken: tuple[str, ...], package: str) -> None:
        """Count what a function imports when it runs; nothing is imported to find out."""
        top = module.lstrip(".").partition(".")[0]
        if top == "mcomp":
            self._imports.add(f"from {module} import {', '.join(taken)}" if taken else f"import {module}")
        elif top not in sys.stdlib_module_names:
            found = sys.modules.get(module)
            if found is not None and getattr(found, "__file__", None) is not None:
                self._in_a_file(module, None)
                return
            path = _file_of(module)
            if path is not None and not installed(path) and path.suffix == ".py":
                self._modules[module] = path

    def _mapping(self, value: dict[Any, Any], name: str) -> Iterator[str]:
        yield str(len(value))
        for key, item in value.items():
            yield from self.parts(key, name)
            yield from self.parts(item, f"{name}[{key!r:.20}]")

    def _items(self, value: Any, name: str) -> Iterator[str]:
        yield f"{len(value)}"
        for item in value:
            yield from self.parts(item, name)

    def _set(self, value: Any, name: str) -> Iterator[str]:
        if not all(isinstance(item, _PLAIN) for item in value):
            raise Unsure(f"`{name}` (a set of objects)")
        yield repr(sorted(map(repr, value)))  # a set of texts has another order in each process

    def _method(self, value: Any, name: str) -> Iterator[str]:
        yield from self.parts(value.__func__, name)
        if isinstance(value, MethodType):
            yield from self.parts(value.__self__, name)

    def _property(self, value: Any, name: str) -> Iterator[str]:
        for part in (value.fget, value.fset, value.fdel):
            yield from self.parts(part, name)

    def _partial(self, value: functools.partial[Any], name: str) -> Iterator[str]:
        yield from self.parts((value.func, value.args, value.keywords), name)

    def _built_in(self, value: Any, name: str) -> Iterator[str]:
        yield f"{value.__module__}.{value.__qualname__}"
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, ModuleType | type | None):
            yield from self.parts(owner, name)

    _TELL: ClassVar[dict[type, Callable[[Any, Any, str], Iterator[str]]]] = {
        FunctionType: _function,
        MethodType: _method,
        staticmethod: _method,
        classmethod: _method,
        property: _property,
        functools.cached_property: lambda self, value, name: self.parts(value.func, name),
        functools.partial: _partial,
        type(functools.cache(len)): lambda self, value, name: self.parts(value.__wrapped__, name),
        BuiltinFunctionType: _built_in,
        type: _class,
        ModuleType: _module,
        dict: _mapping,
        tuple: _items,
        list: _items,
        set: _set,
        frozenset: _set,
    }


#: Descriptors that a class makes of its own accord.
_SLOTS = {"getset_descriptor", "member_descriptor", "_abc_data"}


def _imports(code: CodeType) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Modules that the code imports, with the names taken from them."""
    module, taken = "", list[str]()
    for one in dis.get_instructions(code):
        if one.opname == "IMPORT_NAME":
            if module:
                yield module, tuple(taken)
            module, taken = str(one.argval), []
        elif one.opname == "IMPORT_FROM":
            taken.append(str(one.argval))
    if module:
        yield module, tuple(taken)


def _file_of(module: str) -> Path | None:
    from importlib.util import find_spec

    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # it fails when it runs, and says so
        return None
    return Path(spec.origin) if spec is not None and spec.origin not in (None, "built-in", "frozen") else None


def _is_installed(cls: type) -> bool:
    """Whether an object's class is of the standard library or an installed package, where it may keep anything."""
    top = cls.__module__.partition(".")[0]
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return (top in sys.stdlib_module_names and top != "__main__") or (file is not None and installed(Path(file)))
