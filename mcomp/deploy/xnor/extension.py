"""The compiled loops: built once with the machine's own compiler, and found again ever after."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

import torch
from torch import Tensor

from mcomp.errors import BackendMissingError, UsageError

#: Which loops to take: the fastest that the processor has, or one by name.
InstructionPath = Literal["auto", "avx512", "avx2", "scalar"]

SOURCES = Path(__file__).with_name("source")
_NAME = "mcomp_xnor"
# products and sums rounded one by one, so that every processor gives the same bits
_FLAGS = ["-O3", "-ffp-contract=off", "-fopenmp"]


Size = tuple[int, int]


class Chain(Protocol):
    """Steps that the compiled module runs one after the other; shapes and meanings stand in ``source/xnor.cpp``."""

    def pack(self, channels: int, groups: int, threshold: Tensor | None, flip: Tensor | None, /) -> None:
        """Add: signs of ``(N, C, H, W)`` as bits."""

    def pool(self, kernel: Size, stride: Size, padding: Size, dilation: Size, size: Size, /) -> None:
        """Add: max pooling of bits."""

    def convolve(
        self,
        filters: Tensor,
        outputs: int,
        geometry: list[int],
        classes: Tensor,
        base: Tensor,
        shift: int,
        scale: Tensor,
        bias: Tensor | None,
        channels_last: bool,
        /,
    ) -> None:
        """Add: a convolution of bits, as floats."""

    def convolve_to_signs(
        self,
        filters: Tensor,
        outputs: int,
        geometry: list[int],
        classes: Tensor,
        limit: Tensor,
        flip: Tensor,
        groups: int,
        /,
    ) -> None:
        """Add: a convolution of bits, as bits."""

    def run(self, x: Tensor, /) -> Tensor:
        """What the last step makes of ``x``."""


class Extension(Protocol):
    """What the compiled module offers."""

    def paths(self) -> list[str]:
        """Instruction sets that this processor has, the fastest first."""

    def Chain(self, path: str, /) -> Chain:
        """An empty chain on one instruction set, or on the best with ``auto``."""


@functools.cache
def extension() -> Extension:
    """The compiled loops, built now where they are not there yet.

    Raises:
        BackendMissingError: MC620, they cannot be built.
    """
    return _load(build())


def available_paths() -> list[str]:
    """The instruction sets among ``avx512``, ``avx2`` and ``scalar`` that this processor has, the fastest first.

    Raises:
        BackendMissingError: MC620, the loops cannot be built.
    """
    return extension().paths()


def check_path(path: str) -> None:
    """Refuse loops that do not exist, or that this processor cannot run.

    Raises:
        UsageError: MC621, one of the two.
        BackendMissingError: MC620, the loops cannot be built.
    """
    offered = available_paths()
    if path not in get_args(InstructionPath):
        raise UsageError(
            f"there is no path `{path}`", code="MC621", hint=f"one of: {', '.join(get_args(InstructionPath))}"
        )
    if path != "auto" and path not in offered:
        raise UsageError(f"this processor does not have `{path}`", code="MC621", hint=f"it has: {', '.join(offered)}")


def build(folder: str | Path | None = None) -> Path:
    """Compile the loops ahead of time, with the compiler of ``CXX``, else ``c++``. What is there is left as it is.

    Args:
        folder: where to; else ``TORCH_EXTENSIONS_DIR``, else ``torch_extensions`` in the person's cache folder, which
            is also where they are looked for at run time. Neither compiler nor ninja is needed there afterwards.

    Returns:
        The compiled file. Its name holds a digest of the sources and the versions of torch and Python.

    Raises:
        BackendMissingError: MC620, there is no compiler or no ninja, or the compiler failed.
    """
    home = _home() if folder is None else Path(folder)
    name = f"{_NAME}_{_digest()}"
    made = home / f"{name}.so"
    if made.is_file():
        return made
    _refuse_without_tools()
    try:
        home.mkdir(parents=True, exist_ok=True)
        # in a folder of its own, moved into place when whole: a killed build leaves nothing that the next one waits for
        with tempfile.TemporaryDirectory(prefix=f".{_NAME}-", dir=home) as work:
            _compile(name, Path(work))
            os.replace(Path(work) / made.name, made)
    except OSError as error:
        raise BackendMissingError(
            f"the XNOR loops cannot be written to `{home}`",
            code="MC620",
            why=error.strerror or str(error),
            hint="set TORCH_EXTENSIONS_DIR to a folder that may be written",
        ) from error
    return made


def _home() -> Path:
    told = os.environ.get("TORCH_EXTENSIONS_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(told) if told else Path(cache) / "torch_extensions"


@functools.cache
def _digest() -> str:
    found = hashlib.sha256(f"{torch.__version__} {sys.implementation.cache_tag} {platform.machine()}".encode())
    for source in sorted(SOURCES.iterdir()):
        found.update(source.read_bytes())
    return found.hexdigest()[:16]


def _refuse_without_tools() -> None:
    compiler = os.environ.get("CXX", "c++")
    for tool, hint in (
        (compiler, "install a C++ compiler (`apt install g++`), or name yours in the variable CXX"),
        ("ninja", "pip install ninja"),
    ):
        if shutil.which(tool) is None:
            raise BackendMissingError(
                f"the XNOR loops have to be compiled, and there is no `{tool}`",
                code="MC620",
                hint=f"{hint}; or run the model as it is, which needs neither",
            )


def _compile(name: str, work: Path) -> None:
    with _quiet():
        from torch.utils.cpp_extension import load

    try:
        load(
            name,
            [str(source) for source in sorted(SOURCES.glob("*.cpp"))],
            extra_cflags=_FLAGS,
            extra_ldflags=["-fopenmp"],
            build_directory=str(work),
            with_cuda=False,
        )
    except (RuntimeError, ImportError, subprocess.SubprocessError) as error:
        faults = [line for line in str(error).splitlines() if "error" in line.lower()]
        raise BackendMissingError(
            "the XNOR loops cannot be compiled",
            code="MC620",
            why=(faults or str(error).splitlines())[-1].strip(),
            hint="use a compiler that this torch's headers can be built with (g++ 11 or later, clang 14 or later)",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's word on CUDA, which no part of this needs."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load(path: Path) -> Extension:
    loader = ExtensionFileLoader(path.stem, str(path))
    spec = importlib.util.spec_from_loader(path.stem, loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except ImportError as error:
        raise BackendMissingError(
            f"the XNOR loops in `{path}` cannot be loaded",
            code="MC620",
            why=str(error),
            hint="delete that file; it is built anew",
        ) from error
    return cast(Extension, module)
