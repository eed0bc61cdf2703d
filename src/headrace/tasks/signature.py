"""What a task takes and returns, read from its function's signature.

Owns the way from annotations to types: the msgspec type that the JSON object of arguments must fit, its decoder, and
the type of the result. What cannot be read from JSON is refused when the module is imported, with the task's name, and
not when a job dies of it. Never look at a value here: calls and executions use what is made here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from headrace.errors import ConfigurationError
from headrace.jobs.retry import Cancel, Snooze

_PARAMETER_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_WISHES = (Snooze, Cancel)


def hints_of(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a function's parameters and of what it returns.

    Raises:
        ConfigurationError: an annotation names what does not exist.

    """
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        message = f"the task {name} has an annotation that cannot be read at run time: {error}"
        raise ConfigurationError(message) from error


def signature_without_run(name: str, function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a task as its callers see it.

    Raises:
        ConfigurationError: the run is missing, or arguments are not passed one by one.

    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if not parameters:
        message = f"the task {name} needs the run as its first parameter: async def {function.__name__}(run: Run, …)"
        raise ConfigurationError(message)
    for parameter in parameters[1:]:
        if parameter.kind not in _PARAMETER_KINDS:
            message = f"the task {name} has the parameter {parameter}: arguments are passed by name, one by one"
            raise ConfigurationError(message)
    return signature.replace(parameters=parameters[1:])


def args_type_of(name: str, signature: inspect.Signature, hints: Mapping[str, Any]) -> type[msgspec.Struct]:
    """Make the msgspec type that the JSON object of arguments must fit.

    Raises:
        ConfigurationError: a parameter has no annotation.

    """
    fields: list[Any] = []
    for parameter in signature.parameters.values():
        if parameter.name not in hints:
            message = f"the task {name} must annotate its parameter {parameter.name}"
            raise ConfigurationError(message)
        default = msgspec.NODEFAULT if parameter.default is parameter.empty else parameter.default
        fields.append((parameter.name, hints[parameter.name], default))
    title = "".join(part.title() for part in name.replace("_", ".").replace("-", ".").split("."))
    return msgspec.defstruct(f"{title}Args", fields, frozen=True, kw_only=True, forbid_unknown_fields=True)


def decoder_of(name: str, args_type: type[msgspec.Struct]) -> msgspec.json.Decoder[msgspec.Struct]:
    """Return what decodes the arguments.

    Raises:
        ConfigurationError: a parameter has a type that no JSON can become.

    """
    try:
        return msgspec.json.Decoder(args_type)
    except TypeError as error:
        message = f"the task {name} has a parameter whose type cannot be read from JSON: {error}"
        raise ConfigurationError(message) from error


def result_type_of(hints: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any type
    """Return the declared type of the result, without the wishes that a task may return instead; None for none."""
    declared = hints.get("return")
    members = get_args(declared) if get_origin(declared) in {Union, UnionType} else (declared,)
    results = [member for member in members if not any(member is wish for wish in _WISHES)]
    return reduce(or_, results) if results else NoneType
