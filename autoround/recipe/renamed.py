"""Recipe keys and values that had another name in earlier releases, and the names they have now."""

from __future__ import annotations

#: Old dotted path of a key, and its path now. Keys below a renamed section keep their own names
#: unless they have a row of their own.
RENAMED_KEYS = {
    "distill": "end_to_end",
    "distill.codes": "end_to_end.tune_codes",
    "tuning.start": "tuning.init_rounding",
    "tuning.init": "tuning.init_scale",
    "tuning.checks": "tuning.num_validations",
    "tuning.check_samples": "tuning.validation_samples",
    "tuning.clips": "tuning.tune_minmax",
}
#: Path of a key, with its old or its new name, and the values of it that have another name now.
RENAMED_VALUES = {
    "tuning.start": {"compensated": "gptq"},
    "tuning.init_rounding": {"compensated": "gptq"},
}


def renamed_value(path: str, value: object) -> str:
    """Return the name that a value has now, empty where it has the one it always had.

    Args:
        path: dotted path of the key, with its old or its new name.
        value: what was given for it.
    """
    return RENAMED_VALUES.get(path, {}).get(value, "") if isinstance(value, str) else ""


def describe_rename(path: str, value: object) -> str:
    """Return the sentence that names the new key, and the new value where that changed too.

    Args:
        path: old dotted path of the key, one of ``RENAMED_KEYS``.
        value: what was given for it.
    """
    new_value = renamed_value(path, value)
    also = f", and its value {value} is now {new_value}" if new_value else ""
    return f"{path} is now {RENAMED_KEYS[path]}{also}; write the new name"
