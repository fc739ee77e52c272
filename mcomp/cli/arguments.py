"""Reading the command line, with our own words where it is wrong."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from mcomp.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in a sentence.

        Raises:
            UsageError: MC297, always.
        """
        raise UsageError(self._sentence(message), code="MC297", hint=f"`{self.prog} --help` shows how")

    def _sentence(self, message: str) -> str:
        if found := re.fullmatch(r"the following arguments are required: (.+)", message):
            return f"`{self.prog}` needs {found[1]}"
        if found := re.fullmatch(r"argument ([^:]+): expected (one|at least one) argument", message):
            return f"`{found[1].rpartition('/')[2]}` needs a value"
        if found := re.fullmatch(r"argument ([^:]+): invalid choice: '(.*)' \(choose from (.*)\)", message):
            return f"`{found[1]}` cannot be `{found[2]}`; it is one of {found[3]}"
        if found := re.fullmatch(r"argument ([^:]+): (.+)", message):
            return f"`{found[1]}`: {found[2]}"
        return message

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """Look for misspelled options before argparse does: it would first complain of what they leave missing.

        Raises:
            UsageError: MC296, an option that this verb does not have.
        """
        known = self._option_string_actions
        for word in words:
            if word == "--":
                return
            name = word.partition("=")[0]
            if re.fullmatch(r"--?[A-Za-z][\w-]*", name) and name not in known:
                raise unknown_option(self.prog, name, known)

    def refuse_before(self, words: Sequence[str]) -> None:
        """Look for this verb's own options among the words that stand before the verb.

        Raises:
            UsageError: MC296, an option of this verb stands before it.
        """
        for word in words:
            name = word.partition("=")[0]
            if name in self._option_string_actions and name not in ("-h", "--help"):
                program, _, verb = self.prog.rpartition(" ")
                raise UsageError(
                    f"`{name}` is an option of `{verb}` and follows it",
                    code="MC296",
                    hint=f"`{program} {verb} {name} …`",
                )


def unknown_option(prog: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for an option that a verb does not have."""
    from mcomp.suggest import closest

    options = [one for one in known if one.startswith("--")]
    near = closest(name.lstrip("-"), [one.lstrip("-") for one in options])
    advice = f"did you mean `--{near}`?" if near else f"`{prog} --help` lists its options"
    return UsageError(f"`{prog}` has no option `{name}`", code="MC296", hint=advice)


def unknown_verb(name: str, known: Mapping[str, str]) -> UsageError:
    """The error for a verb that does not exist."""
    from mcomp.suggest import did_you_mean

    advice = did_you_mean(name, known) or "`mcomp --help` lists the verbs"
    return UsageError(f"mcomp has no verb `{name}`", code="MC295", hint=advice)
