"""Settings by name: read from NAME=VALUE, given to the config's method that knows them.

Knows configs by the parameters of their methods only.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import numbers
from collections.abc import Collection, Mapping, Sequence
from types import NoneType, SimpleNamespace, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from rllib_om2p.core.config import OfflineConfig

# Those that set hyperparameters, and those that say where and how a run goes.
HYPERPARAMETERS = ("training", "offline_data")
ALL_METHODS = (*HYPERPARAMETERS, "learners", "evaluation")
_NO_SETTINGS = ("self", "kwargs", "input_")

_UNIONS: tuple[Any, ...] = (Union, UnionType)
_NUMBERS: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real}
_SEQUENCES = (Sequence, list, tuple)
_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "a dictionary",
    Mapping: "a dictionary",
}


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the values of NAME=VALUE pairs: numbers, None, tuples as in Python; else text.

    Raises:
        ValueError: A text is no such pair.
    """
    settings = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--set expects NAME=VALUE, got {pair!r}.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False}.get(text.lower(), text)
        settings[name.strip()] = value
    return settings


def setting_methods(
    config: OfflineConfig, methods: Sequence[str] = HYPERPARAMETERS
) -> dict[str, str]:
    """Return the name of every setting of these methods and the method that sets it."""
    homes: dict[str, str] = {}
    for method in methods:
        for cls in type(config).__mro__:
            if method in vars(cls):
                homes |= dict.fromkeys(inspect.signature(vars(cls)[method]).parameters, method)
    return {name: method for name, method in homes.items() if name not in _NO_SETTINGS}


def own_settings(config: OfflineConfig) -> list[str]:
    """Return the names of the hyperparameters that are not RLlib's."""
    names: dict[str, None] = {}
    for cls in itertools.takewhile(lambda cls: not _is_rllibs(cls), type(config).__mro__):
        for method in HYPERPARAMETERS:
            if method in vars(cls):
                names |= dict.fromkeys(inspect.signature(vars(cls)[method]).parameters)
    return [name for name in names if name not in _NO_SETTINGS]


def apply_settings(config: OfflineConfig, settings: Mapping[str, Any]) -> None:
    """Give each setting to the method of the config that knows it.

    Raises:
        ValueError: No method knows a setting, or it is of another kind; the text says what is.
    """
    homes = setting_methods(config, ALL_METHODS)
    by_method: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        if name not in homes:
            raise ValueError(no_such_setting(config, name, homes))
        _check_kind(config, homes[name], name, value)
        by_method.setdefault(homes[name], {})[name] = value
    for method, together in by_method.items():
        getattr(config, method)(**together)


def no_such_setting(config: OfflineConfig, name: str, known: Collection[str]) -> str:
    """Return an error's text for a name that is none of those that are known."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    kind = type(config).__name__
    suggestion = f"did you mean {' or '.join(near)}?" if near else f"see help({kind})."
    return f"{kind} knows no {name!r}; {suggestion}"


def check_kinds(config: OfflineConfig) -> None:
    """Check that the hyperparameters that are not RLlib's are of the kinds that they can be.

    Raises:
        ValueError: One is not; the text names it.
    """
    homes = setting_methods(config)
    for name in own_settings(config):
        _check_kind(config, homes[name], name, getattr(config, name))


def _check_kind(config: OfflineConfig, method: str, name: str, value: Any) -> None:
    hint = _hint(config, method, name)
    if value is not None and _is_kind(value, hint):
        return
    default = _default(config, name)
    # Every hint allows None, as RLlib's do; it has a meaning where it is the default.
    if not _is_kind(value, hint) or (value is None and default is not None):
        raise ValueError(
            f"{name} must be {_in_words(hint)}, got {value!r}; the default is {default!r}."
        )


def _default(config: OfflineConfig, name: str) -> Any:
    fresh = type(config)()
    # RLlib's own properties compute what other settings say; ours are other names of settings.
    if any(name in vars(cls) for cls in type(config).__mro__ if _is_rllibs(cls)):
        return vars(fresh).get(name)
    return getattr(fresh, name, None)


def _is_rllibs(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "ray"


def _hint(config: OfflineConfig, method: str, name: str) -> Any:
    """Return the type of a method's parameter, Any if that cannot be read."""
    for cls in type(config).__mro__:
        function = vars(cls).get(method)
        if function is None or name not in inspect.signature(function).parameters:
            continue
        hint = inspect.signature(function).parameters[name].annotation
        if hint is inspect.Parameter.empty:
            return Any
        try:
            own = SimpleNamespace(__annotations__={name: hint})
            return get_type_hints(own, function.__globals__)[name]
        except NameError:  # imported for type checkers only
            return Any
    return Any


def _is_kind(value: Any, hint: Any) -> bool:
    kind = get_origin(hint) or hint
    if kind in _UNIONS:
        return any(_is_kind(value, option) for option in get_args(hint))
    if kind is NoneType:
        return value is None
    if kind is bool:
        return isinstance(value, int) and value in (0, 1)
    if kind in _NUMBERS:
        return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if kind in _SEQUENCES:
        options = get_args(hint) or (Any,)
        return isinstance(value, (list, tuple)) and all(
            any(_is_kind(item, option) for option in options) for item in value
        )
    if kind in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _in_words(hint: Any) -> str:
    kind, options = get_origin(hint) or hint, get_args(hint)
    if kind in _UNIONS:
        words = [_in_words(option) for option in options if option is not NoneType]
        return " or ".join(dict.fromkeys(words))
    if kind is Literal:
        return f"one of {options}"
    if kind in _SEQUENCES:
        items = [_WORDS[option].removeprefix("a ") for option in options if option in _WORDS]
        return f"a sequence of {items[0]}s" if items else "a sequence"
    return _WORDS.get(kind, str(kind))
