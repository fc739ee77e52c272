"""Texts and files made to hurt: what mcomp answers, and what that costs.

Each case runs in a forked process of its own, with 200 MB of address space to grow by. ``python -m tests.corpus.hostile
recipes`` (or ``files``, ``tensors``) prints one JSON object: case to answer, CPU seconds and memory.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcomp.errors import McompError, RecipeError
from mcomp.recipe import Recipe, render

ROOM = 200 * 2**20
PATIENCE = 60  # of wall clock; past it a case hangs

Wanted = Literal["refused", "valid", "either"]


@dataclass(frozen=True)
class Case:
    """One attack.

    Attributes:
        name: for the figures.
        run: raises mcomp's refusal, or comes back.
        wanted: what has to come of it.
    """

    name: str
    run: Callable[[], object]
    wanted: Wanted = "refused"


HEAD = "version: 1\nmodel: {name: lenet}\ndata: {name: digits}\n"
GOOD = HEAD + "stages:\n  - train: {epochs: 1}\n"


def _text(name: str, text: str, *sets: str, wanted: Wanted = "refused", base: Path | None = None) -> Case:
    return Case(name, lambda: Recipe.from_text(text, sets, base_dir=base), wanted)


def bombs() -> Iterator[Case]:
    """Texts that are far more than they look."""
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    yield _text("billion laughs", GOOD + "metadata:\n" + "".join(f"  {line}\n" for line in laughs.splitlines()))
    yield _text("a long scalar, many aliases", "a: &a " + "x" * 200_000 + "\nb: [" + "*a, " * 9000 + "]\n")
    yield _text("an alias inside of itself", GOOD + "metadata: &a {b: [*a]}\n")
    yield _text("an alias that is its own key", GOOD + "metadata: {&a x: *a, *a : 1}\n", wanted="either")
    yield _text("brackets without end", "[" * 500_000)
    yield _text("braces without end", "{a: " * 250_000)
    yield _text("closed brackets, deep", "a: " + "[" * 300_000 + "]" * 300_000)
    yield _text("lists in lists", GOOD + "metadata: {a:\n" + "- " * 300_000)
    yield _text("indentation, deep", "".join(f"{' ' * depth}a:\n" for depth in range(1400)))
    yield _text("questions", "? " * 400_000)
    yield _text("anchors", "".join(f"- &a{n} x\n" for n in range(80_000)))
    yield _text("a hundred thousand keys", GOOD + "metadata: {" + ", ".join(f"k{n}: 1" for n in range(90_000)) + "}\n")
    yield _text("thousands of wrong keys", GOOD + "".join(f"key{n}: 1\n" for n in range(9000)))
    yield _text("thousands of wrong stages", HEAD + "stages:\n" + "  - a: {b: c}\n" * 3000)
    yield _text("a key of half a megabyte", GOOD + "x" * 500_000 + ": 1\n")
    yield _text("a value of half a megabyte", GOOD + "name: " + "x" * 500_000 + "\n")
    yield _text("a name that almost fits", GOOD + "name: " + "a" * 400_000 + "!\n")
    yield _text("a line of a megabyte", GOOD + "metadata: {a: '" + " " * 900_000 + "'}\nepohcs: 1\n")
    yield _text("comments", "#" * 900_000 + "\n" + GOOD, wanted="valid")
    yield _text("empty lines", "\n" * 900_000 + GOOD, wanted="valid")
    yield _text("a hundred megabytes", HUGE)
    yield _text(
        "variables in long texts", GOOD + "vars: {a: " + "x" * 200_000 + '}\nmetadata: {b: "' + "${a}" * 50_000 + '"}\n'
    )
    yield _text(
        "variables that are lists",
        GOOD + "vars: {a: [" + "x, " * 2000 + "]}\nmetadata: {b: [" + '"${a}", ' * 2000 + "]}\n",
    )
    yield _text("variables never closed", GOOD + "metadata: {a: '" + "${" * 200_000 + "'}\n")
    yield _text(
        "a million runs",
        GOOD + "sweep: {product: {seed: [" + "1, " * 1000 + "], stages.train.epochs: [" + "1, " * 1000 + "]}}\n",
    )
    yield _text(
        "a thousand runs of a long recipe",
        HEAD
        + "stages:\n"
        + "".join(f"  - train: {{epochs: 1}}\n    id: t{n}\n" for n in range(900))
        + f"sweep: {{product: {{seed: {list(range(1000))}}}}}\n",
    )
    yield _text(
        "a sweep of many axes",
        GOOD + "sweep: {product: {" + ", ".join(f"metadata.a{n}: [1]" for n in range(2000)) + "}}\n",
        wanted="either",
    )
    yield _text(
        "thousands of insertions",
        GOOD + "insert: [" + "{after: train, stages: [evaluate]}, " * 1500 + "]\n",
        wanted="either",
    )
    yield _text(
        "thousands of branches",
        HEAD
        + "stages:\n  - train\n"
        + "".join(f"  - finetune: {{epochs: 1}}\n    id: f{n}\n    from: train\n" for n in range(1100)),
        wanted="either",
    )


HUGE = "a: " + "x" * 100_000_000


def syntax(canary: Path) -> Iterator[Case]:
    """YAML that is more than data."""
    command = f"touch {canary}"
    for tag in (
        "!!python/object/apply:os.system",
        "!!python/object/new:os.system",
        "!!python/name:os.system",
        "!!python/module:os",
        "!<tag:yaml.org,2002:python/object/apply:os.system>",
        "!!binary",
        "!!set",
        "!!omap",
        "!x",
    ):
        yield _text(f"tag {tag}", f"{GOOD}metadata: {{a: {tag} ['{command}']}}\n")
    yield _text("tag in a --set", GOOD, f"name=!!python/object/apply:os.system ['{command}']")
    yield _text(
        "tag directive", f"%TAG !e! tag:yaml.org,2002:python/\n---\n{GOOD}metadata: {{a: !e!name:os.system x}}\n"
    )
    yield _text("yaml directive", f"%YAML 1.1\n---\n{GOOD}", wanted="either")
    yield _text("a directive of many digits", f"%YAML 1.{'9' * 5000}\n---\n{GOOD}")
    yield _text("an unknown directive", f"%FOO bar\n---\n{GOOD}", wanted="either")
    yield _text("merge key", f"{GOOD}metadata: {{a: &a {{b: 1}}, c: {{<<: *a}}}}\n")
    yield _text("two documents", f"{GOOD}---\n{GOOD}")
    yield _text("a mapping as a key", f"{GOOD}? {{a: 1}}\n: 2\n")
    yield _text("an escape past Unicode", GOOD + 'metadata: {a: "\\U00110000"}\n')
    for value in (
        "1e999",
        ".inf",
        "-.inf",
        ".nan",
        "9" * 10_000,
        "0x" + "f" * 100_000,
        "0o" + "7" * 100_000,
        "1" + "0" * 400_000,
    ):
        yield _text(f"seed {value[:8]}", f"{GOOD}seed: {value}\n")
        yield _text(f"width {value[:8]}", GOOD.replace("lenet}", f"lenet, width: {value}}}"))
    yield _text("size 1e9", GOOD.replace("digits}", "digits, image_size: 1000000000}"))
    yield _text("classes 1e18", GOOD.replace("lenet}", "lenet, num_classes: 1000000000000000000}"), wanted="either")


def letters() -> Iterator[Case]:
    """Characters that look like others, or like nothing."""
    key = GOOD.replace("epochs", "{}")
    for name, text in (
        ("zero-width key", key.replace("{}", "epo\u200bchs")),
        ("bidirectional key", key.replace("{}", "\u202eepochs\u202c")),
        ("Cyrillic key", key.replace("{}", "\u0435pochs")),
        ("fullwidth key", key.replace("{}", "\uff45pochs")),
        ("combining key", key.replace("{}", "epo\u0301chs")),
        ("bidirectional value", GOOD + "name: a\u202eb\n"),
        ("terminal escapes", GOOD + 'name: "\\e]0;owned\\a\\e[2J"\n'),
        ("raw escape", GOOD + "name: \x1b[31mred\n"),
        ("null", GOOD + "name: a\x00b\n"),
        ("escaped null", GOOD + 'name: "a\\0b"\n'),
        ("delete", GOOD + "name: a\x7fb\n"),
        ("mark inside", GOOD + "name: a\ufeffb\n"),
        ("half a surrogate", GOOD + "name: a\ud800b\n"),
        ("escaped half", GOOD + 'name: "\\ud800"\n'),
        ("non-character", GOOD + "name: a\uffffb\n"),
        ("line separator in a name", GOOD + 'name: "a\\Lb"\n'),
        ("no-break space", GOOD + "\u00a0seed: 1\n"),
        ("tab for indentation", GOOD + "metadata:\n\ta: 1\n"),
    ):
        yield _text(name, text)
    yield _text("mark at the start", "\ufeff" + GOOD, wanted="valid")
    yield _text("carriage returns", GOOD.replace("\n", "\r"), wanted="either")
    yield _text("carriage return and line feed", GOOD.replace("\n", "\r\n"), wanted="valid")
    yield _text("next-line characters", GOOD.replace("\n", "\x85"), wanted="either")


def names(folder: Path, canary: Path) -> Iterator[Case]:
    """Names that are paths, and paths that are code."""
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\ndef build(**_): ...\n")
    (folder / "link.py").symlink_to(folder / "evil.py")
    for name in ("../../x", "/etc/passwd", "..", ".", "a/b", "a\\\\b", "CON/x", "~root", "-rf", ""):
        yield _text(f"name {name or 'empty'}", f'{GOOD}name: "{name}"\n')
        yield _text(f"id {name or 'empty'}", f'{GOOD}    id: "{name}"\n')
    for name in (
        "os:system",
        "subprocess:Popen",
        "builtins:exec",
        "evil.py:build",
        "./evil.py:build",
        "evil:build",
        "link.py:build",
        "__main__:main",
        "torchvision:../../x",
        "torchvision:os.system",
        "timm:__import__",
        "mcomp.cli.main:main",
        "evil.py:__import__('os')",
        "http://a.b/c.py:build",
    ):
        yield _text(
            f"model {name}",
            f'version: 1\nmodel: {{name: "{name}"}}\ndata: {{name: digits}}\nstages: [train]\n',
            base=folder,
        )
        yield _text(
            f"data {name}",
            f'version: 1\nmodel: {{name: nin}}\ndata: {{name: "{name}"}}\nstages: [train]\n',
            base=folder,
        )
    for file in ("evil.py", "link.py", "/etc/passwd", "../evil.py", "http://a.b/c.py", "evil.py\\0", ".", ""):
        yield _text(f"plug-in {file or 'empty'}", f'{GOOD}plugins: ["{file}"]\n', base=folder)
    yield _text("plug-in by --set", GOOD, "plugins=[evil.py]", base=folder)
    for name, text in (
        ("--set without end", "a." * 100_000 + "b=1"),
        ("--set deep", ".".join(["metadata"] + ["a"] * 5000) + "=1"),
        ("--set past the end", "stages[999999].train.epochs=1"),
        ("--set of a megabyte", "name=" + "x" * 1_000_000),
        ("--set of a class", "stages.train.__class__=1"),
        ("--set of brackets", "seed=" + "[" * 100_000),
        ("--set of null", "name=a\0b"),
        ("--set with lines", "name=a\nseed: 1"),
    ):
        yield _text(name, GOOD, text, wanted="either" if "deep" in name else "refused")
    for value in (
        "evil.py",
        "/dev/zero",
        "/proc/self/environ",
        "../../../../../../etc/passwd",
        "file:///etc/passwd",
        "~/.ssh/id_rsa",
    ):
        yield _text(f"extends {value}", f'extends: "{value}"\n{GOOD}', base=folder)


def files(folder: Path, canary: Path) -> Iterator[Case]:
    """Things that are no files of text."""
    os.mkfifo(folder / "pipe.yaml")
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    (folder / "passwd.yaml").symlink_to("/etc/passwd")
    (folder / "folder.yaml").mkdir()
    with (folder / "sparse.yaml").open("wb") as file:
        file.truncate(100_000_000)
    (folder / "utf16.yaml").write_bytes(GOOD.encode("utf-16"))
    (folder / "latin.yaml").write_bytes(GOOD.encode() + b"name: caf\xe9\n")
    (folder / "noise.yaml").write_bytes(bytes(range(256)) * 100)
    for name in ("pipe", "loop", "passwd", "folder", "sparse", "utf16", "latin", "noise", "absent"):
        yield Case(f"a recipe that is {name}", lambda name=name: Recipe.load(folder / f"{name}.yaml"))  # type: ignore[misc]
        yield _text(f"a base that is {name}", f"extends: {name}.yaml\nversion: 1\n", base=folder)
    for path in ("/dev/zero", "/dev/null", "/proc/self/mem", "/", "a\0b", "x" * 5000, "\udcff.yaml", "/dev/full"):
        yield Case(f"a recipe that is {path[:20]!r}", lambda path=path: Recipe.load(path))  # type: ignore[misc]
    (folder / "one.yaml").write_text(f"extends: two.yaml\n{GOOD}")
    (folder / "two.yaml").write_text("extends: three.yaml\n")
    (folder / "three.yaml").symlink_to(folder / "one.yaml")
    yield Case("bases in a circle, by a link", lambda: Recipe.load(folder / "one.yaml"))
    for depth in range(9):
        below = ", ".join([f"wide{depth + 1}.yaml"] * 60)
        (folder / f"wide{depth}.yaml").write_text(
            f"extends: [{below}]\nmetadata: {{a{depth}: [1, 2, 3]}}\n" if depth < 8 else GOOD
        )
    yield Case("bases that multiply", lambda: Recipe.load(folder / "wide0.yaml"), "either")
    for depth in range(40):
        (folder / f"deep{depth}.yaml").write_text(f"extends: deep{depth + 1}.yaml\n" if depth < 39 else GOOD)
    yield Case("bases that are deep", lambda: Recipe.load(folder / "deep0.yaml"))


def recipes(folder: Path, canary: Path) -> Iterator[Case]:
    """Everything that is text."""
    yield from bombs()
    yield from syntax(canary)
    yield from letters()
    yield from names(folder, canary)


def _group(name: str) -> Callable[[Path, Path], Iterator[Case]]:
    if name == "tensors":
        from tests.corpus.hostile_tensors import tensors

        return tensors
    return {"recipes": recipes, "files": files}[name]


GROUPS = ("recipes", "files", "tensors")


def run_group(name: str) -> dict[str, dict[str, Any]]:
    """Each case in a fork of this process; ``executed`` names those that ran what they should not."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, canary = Path(place), Path(place) / "canary"
        # what every command loads is not the case's cost
        Recipe.from_text(GOOD)
        _said(Case("warm", lambda: Recipe.from_text(GOOD.replace("lenet", "lenett").replace("epochs", "epohcs"))))
        for case in _group(name)(folder, canary):
            found[case.name] = _in_fork(case)
            found[case.name]["executed"] = canary.exists()
            canary.unlink(missing_ok=True)
    return found


def _in_fork(case: Case) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(PATIENCE)
        resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + ROOM,) * 2)
        before, memory = time.process_time(), _memory("VmRSS")
        said = _said(case)
        result = {"said": said, "seconds": time.process_time() - before, "bytes": _memory("VmHWM") - memory}
        with os.fdopen(writing, "w") as stream:
            json.dump(
                {
                    **result,
                    "as_wanted": said.startswith(case.wanted) or (case.wanted == "either" and "crash" not in said),
                },
                stream,
            )
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    if not text:
        said = f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"ended with {status}"
        return {"said": said, "seconds": float(PATIENCE), "bytes": 0, "as_wanted": False}
    found: dict[str, Any] = json.loads(text)
    return found


def _said(case: Case) -> str:
    """``valid``, ``refused …`` or ``crashed …``; everything that is not mcomp's own error is a crash."""
    try:
        case.run()
    except RecipeError as error:
        shown = render(error.diagnostics)
        if not all(char.isprintable() or char == "\n" for char in shown):
            return "crashed: the text would drive a terminal"
        return f"refused with {', '.join(dict.fromkeys(one.code for one in error.diagnostics))}"
    except McompError as error:
        return f"refused with {error.code}"
    except BaseException as error:
        return f"crashed: {type(error).__name__}: {str(error)[:200]}"
    return "valid"


def _memory(field: str) -> int:
    """Of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


if __name__ == "__main__":
    print(json.dumps(run_group(sys.argv[1]), indent=1))
