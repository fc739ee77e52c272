"""A worker without a network: what it does is said by the genome, in the order DO, SECONDS, WHERE."""

import json
import os
import pathlib
import signal
import sys
import time

ANSWER, FAIL, DIE, DIE_ONCE, TALK, DIE_TWICE = range(6)


def main() -> None:
    """Answer tasks; ``never`` ends before it is ready, ``deaf`` stays after the last task."""
    folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
    (folder / f"pid-{os.getpid()}").touch()
    if mode == "never":
        print("importing", file=sys.stderr)
        print("the network is nowhere to be found", file=sys.stderr)
        sys.exit(3)
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "slow":
        time.sleep(60)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        what, seconds = task["genome"][:2]
        deaths = folder / f"deaths-{task['number']}"
        time.sleep(seconds)
        count = len(deaths.read_text()) if deaths.exists() else 0
        if what == DIE or (what == DIE_ONCE and count < 1) or (what == DIE_TWICE and count < 2):
            with deaths.open("a") as file:
                file.write("x")
            sys.stdout.write('{"fitn')
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        found = {"fitness": 50 + task["number"], "probability": 40.5, "error": ""}
        if what == FAIL:
            found = {"fitness": None, "probability": None, "error": "no such width"}
        print(json.dumps(found), flush=True)
    while mode == "deaf":
        time.sleep(60)


if __name__ == "__main__":
    main()
