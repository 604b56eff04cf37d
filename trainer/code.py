"""Call code that somebody names as `module:function`.

Covered: importing, calling, and saying which of the two failed and why.
Not covered: whether the code may be trusted; who calls this has decided that.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from trainer.errors import CodeError

__all__ = ["call", "is_code_name"]

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_code_name(name: str) -> bool:
    """Tell whether `name` has the form `package.module:function`."""
    return _NAME.fullmatch(name) is not None


def call(name: str, arguments: Mapping[str, Any]) -> Any:
    """Import `module:function`, call it with keyword arguments and return what it returns.

    Raises CodeError naming the step that failed: the import, the attribute or the call.
    """
    if not is_code_name(name):
        raise CodeError(f"{name!r} is not of the form package.module:function")
    module_name, function_name = name.split(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise CodeError(
            f"{name}: no module named {error.name!r}; put its folder on PYTHONPATH"
        ) from error
    except Exception as error:
        raise CodeError(f"{name}: importing {module_name} raised {_shown(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        what = "has no" if function is None else "has a value that cannot be called as"
        raise CodeError(f"{name}: module {module_name} {what} {function_name!r}")
    try:
        return function(**arguments)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise CodeError(f"{name}: {function_name}({given}) raised {_shown(error)}") from error


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
