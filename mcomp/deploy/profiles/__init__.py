"""One file per target: which integers it takes, and where it wants them."""

from __future__ import annotations

from typing import Literal

from mcomp.deploy.profiles.base import Profile
from mcomp.deploy.profiles.onnxruntime import ONNXRUNTIME
from mcomp.deploy.profiles.openvino import OPENVINO
from mcomp.deploy.profiles.portable import PORTABLE
from mcomp.deploy.profiles.tensorrt import TENSORRT
from mcomp.errors import UsageError

ProfileName = Literal["onnxruntime", "openvino", "tensorrt", "portable", "float"]
PROFILES: dict[str, Profile] = {profile.name: profile for profile in (ONNXRUNTIME, OPENVINO, TENSORRT, PORTABLE)}


def find_profile(name: str) -> Profile | None:
    """The profile called ``name``; None for ``float``.

    Raises:
        UsageError: MC432, no such profile.
    """
    if name != "float" and name not in PROFILES:
        raise UsageError(f"no profile `{name}`", code="MC432", hint=f"profiles: {', '.join([*PROFILES, 'float'])}")
    return PROFILES.get(name)
