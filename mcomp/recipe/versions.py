"""The version of the recipe format: older recipes are brought up to date before anything else looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.tree import MapNode, ScalarNode

#: The version that this mcomp writes and validates.
CURRENT = 1

#: A version to what turns a recipe of it into one of the next. The tree is changed in place; a value that is moved
#: keeps its mark, so that a fault in it still points to where the person wrote it.
MIGRATIONS: Mapping[int, Callable[[MapNode], None]] = {}


def migrate(root: MapNode, faults: Faults) -> bool:
    """Bring one file's tree to the current version.

    A version that is missing, or no version at all, is left to validation.

    Returns:
        False, with the reason recorded, for a recipe of a later mcomp: nothing in it can be judged.
    """
    node = root.get("version")
    if not isinstance(node, ScalarNode) or type(node.value) is not int:
        return True
    written = node.value
    if written > CURRENT:
        faults.error(
            "MC128",
            f"`version` must be `{CURRENT}`, got {written}: the recipe was written for a newer mcomp",
            node.mark,
            hint="upgrade mcomp with `pip install --upgrade mcomp`",
        )
        return False
    version = written
    while version < CURRENT and version in MIGRATIONS:
        MIGRATIONS[version](root)
        version += 1
    if version == CURRENT:
        node.value, node.text = version, str(version)
    return True
