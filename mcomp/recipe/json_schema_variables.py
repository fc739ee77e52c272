"""Where the JSON schema takes a variable, ``"${name}"``, in place of a value: everywhere."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

#: A use anywhere in a text; ``$${`` is a plain ``${``.
VARIABLE: Schema = {"type": "string", "pattern": r"(^|[^$])\$\{[A-Za-z_][A-Za-z0-9_]*\}"}
USE: Schema = {"$ref": "#/$defs/variable"}
_SCHEMA_KEYS = ("anyOf", "oneOf", "allOf")
_OURS = ("expected", "cache", "path")  # what our fields say of themselves beside the standard's keywords
_ABOUT = ("description", "title", "default", "examples")


def with_variables(schema: Any) -> Any:
    """A schema of which every value that is not free text may also be a variable."""
    if not isinstance(schema, dict):
        return schema
    changed = {key: value for key, value in schema.items() if key not in _OURS}
    if str(changed.get("pattern", "")).endswith("$"):
        changed["pattern"] += r"(?!\n)"  # to some regular expressions `$` is also before a last line break
    for key in ("properties", "$defs", "patternProperties"):
        if key in changed:
            changed[key] = {name: or_variable(one) for name, one in changed[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(changed.get(key), dict):
            changed[key] = or_variable(changed[key])
    for key in _SCHEMA_KEYS:
        if key in changed:
            changed[key] = [with_variables(one) for one in changed[key]]
    return changed


def or_variable(schema: Any) -> Any:
    """The schema, its values and the whole of it as variables too."""
    inner = with_variables(schema)
    if not isinstance(inner, dict):
        return inner
    if "anyOf" in inner:
        return {**inner, "anyOf": [*inner["anyOf"], USE]}
    if not inner.keys() & {"type", "$ref", "enum", "const", "oneOf", "allOf"}:
        return inner  # anything goes already
    about = {key: inner.pop(key) for key in _ABOUT if key in inner}
    return {**about, "anyOf": [inner, USE]}
