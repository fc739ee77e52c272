from __future__ import annotations

from hypothesis import settings

# a busy machine is slow at times, and no test here is about time
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
