"""A process that tries candidates: ``python -m mcomp.stages.searching.worker FOLDER``, JSON lines in and out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Read the setup, say that it is there, answer tasks until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)  # a line at a time
    os.dup2(2, 1)  # what a network prints is no answer
    from mcomp.metrics.threads import one_thread
    from mcomp.search.study import Task
    from mcomp.stages.searching.setup import SearchSetup

    folder, *flags = arguments
    with one_thread():
        evaluate = SearchSetup.read(Path(folder), trust="--trust" in flags).evaluator()
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        asked = json.loads(line)
        trial = evaluate(Task(asked["number"], asked["level"], tuple(asked["genome"])))
        said = {"fitness": trial.fitness, "probability": trial.probability, "error": trial.error}
        answers.write(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
