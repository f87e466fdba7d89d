"""The fields of classes that declare some, read raw: dataclasses, attrs, msgspec Structs, Pydantic's, NamedTuples.

Raw, because whoever writes an object out may leave out, mask, rename or compute: what identifies a request is what it
holds.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Literal

from msgspec import NODEFAULT, Struct

NOTHING: Final[Any] = NODEFAULT
"""Stands where there is no value: no default, or nothing at a name."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field, as the class declares it."""

    name: str
    annotation: Any
    """As text where it could not be resolved."""
    default: Any = NOTHING
    factory: Callable[..., Any] | None = None
    """Makes the default; given the values of the other fields if `dependent`."""
    dependent: bool = False

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is NOTHING and self.factory is None

    @property
    def is_tag(self) -> bool:
        """Whether the field can hold one word alone, and so tells the members of a union apart."""
        if isinstance(self.annotation, str):
            return _ONE_WORD.match(self.annotation) is not None
        kind = self.annotation
        while typing.get_origin(kind) in (typing.Annotated, typing.Final, typing.ClassVar):
            kind = typing.get_args(kind)[0]
        return typing.get_origin(kind) is Literal and len(typing.get_args(kind)) == 1


_ONE_WORD: Final = re.compile(r"""^(?:[\w.]*(?:Annotated|Final)\[)?[\w.]*Literal\[[^\],]*\]""")


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of one class."""

    fields: tuple[Field, ...]
    read: Callable[[Any], Mapping[str, Any]]
    """The values of an object by name, without those that were never set."""
    extra: Callable[[Any], Mapping[str, Any]] | None = None
    """What an object holds beside its fields, where the class allows that."""
    tag: tuple[str, Any] | None = None
    """The name and the value by which the class is told from others on the wire."""


def shape_of(cls: type) -> Shape | None:
    """Return the fields of a class, or ``None`` if it declares none."""
    if issubclass(cls, Struct):
        return _struct(cls)
    if any(base.__module__ == "pydantic.main" and base.__name__ == "BaseModel" for base in cls.__mro__):
        return _model(cls)
    if dataclasses.is_dataclass(cls):
        return _dataclass(cls)
    if isinstance(attributes := getattr(cls, "__attrs_attrs__", None), tuple):
        return _attrs(cls, attributes)
    if issubclass(cls, tuple) and isinstance(names := getattr(cls, "_fields", None), tuple):
        return _named_tuple(cls, names)
    return None


def introduced(cls: type) -> dict[str, Field]:
    """Return each field of a class as the first of its bases declares it that has the field."""
    found: dict[str, Field] = {}
    for base in reversed(cls.__mro__):
        shape = None if base is object else shape_of(base)
        for field in shape.fields if shape else ():
            found.setdefault(field.name, field)
    return found


def _struct(cls: Any) -> Shape:
    names, defaults = cls.__struct_fields__, cls.__struct_defaults__
    hints = _hints(cls)
    defaults = (NOTHING,) * (len(names) - len(defaults)) + tuple(defaults)
    tag = (cls.__struct_config__.tag_field, cls.__struct_config__.tag)
    return Shape(
        # A default factory stands among the defaults, in a wrapper of msgspec's own.
        tuple(
            Field(name, hints.get(name, Any), factory=default.factory)
            if type(default).__name__ == "Factory" and type(default).__module__.startswith("msgspec")
            else Field(name, hints.get(name, Any), default)
            for name, default in zip(names, defaults, strict=True)
        ),
        _by_attribute(names),
        tag=None if tag[1] is None else tag,
    )


def _model(cls: Any) -> Shape:
    # `__dict__`, and not attributes: reading a deprecated field by attribute warns.
    fields = tuple(_pydantic(name, info) for name, info in cls.model_fields.items())
    names = [field.name for field in fields]
    open_ = cls.model_config.get("extra") == "allow"

    def read(model: Any) -> dict[str, Any]:
        values = model.__dict__
        return {name: values[name] for name in names if name in values}

    return Shape(fields, read, (lambda model: model.__pydantic_extra__ or {}) if open_ else None)


def _pydantic(name: str, info: Any) -> Field:
    if info.is_required():
        return Field(name, info.annotation)
    if info.default_factory is None:
        return Field(name, info.annotation, info.default)
    dependent = getattr(info, "default_factory_takes_validated_data", None)
    return Field(name, info.annotation, factory=info.default_factory, dependent=bool(dependent))


def _dataclass(cls: Any) -> Shape:
    hints = _hints(cls)
    infos = getattr(cls, "__pydantic_fields__", {})  # there, a default of dataclasses may be Pydantic's Field()
    fields = tuple(
        _pydantic(field.name, infos[field.name])
        if field.name in infos
        else Field(
            field.name,
            hints.get(field.name, field.type),
            NOTHING if field.default is dataclasses.MISSING else field.default,
            None if field.default_factory is dataclasses.MISSING else field.default_factory,
        )
        for field in dataclasses.fields(cls)
    )
    names = [field.name for field in fields]
    open_ = (getattr(cls, "__pydantic_config__", None) or {}).get("extra") == "allow"

    def extra(value: Any) -> dict[str, Any]:
        return {name: item for name, item in vars(value).items() if name not in names and not hasattr(cls, name)}

    return Shape(fields, _by_attribute(names), extra if open_ else None)


def _attrs(cls: type, attributes: tuple[Any, ...]) -> Shape:
    def field(attribute: Any) -> Field:
        default, hint = attribute.default, hints.get(attribute.name, attribute.type)
        if hasattr(default, "takes_self"):  # a factory; one that takes the object is never "at its default"
            return Field(attribute.name, hint, factory=None if default.takes_self else default.factory)
        required = type(default).__name__ == "_Nothing"
        return Field(attribute.name, hint, NOTHING if required else default)

    hints = _hints(cls)
    return Shape(tuple(map(field, attributes)), _by_attribute([attribute.name for attribute in attributes]))


def _named_tuple(cls: Any, names: tuple[str, ...]) -> Shape:
    hints = _hints(cls)
    defaults = cls._field_defaults
    return Shape(
        tuple(Field(name, hints.get(name, Any), defaults.get(name, NOTHING)) for name in names), _by_attribute(names)
    )


def _by_attribute(names: Sequence[str]) -> Callable[[Any], Mapping[str, Any]]:
    at_once = attrgetter(*names) if len(names) > 1 else None

    def read(value: Any) -> dict[str, Any]:
        if at_once is not None:
            try:
                return dict(zip(names, at_once(value), strict=True))
            except AttributeError:
                pass
        return {name: getattr(value, name) for name in names if hasattr(value, name)}

    return read


def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a class and its bases, resolved, or else as they are written."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception:  # a name that is known only where the class was written, or to a type checker alone
        return {name: hint for base in reversed(cls.__mro__) for name, hint in _written(base).items()}


def _written(cls: type) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        found = get_annotations(cls, format=Format.FORWARDREF)
    else:
        found = vars(cls).get("__annotations__", {})
    # Python wraps the texts of a NamedTuple.
    return {name: hint.__forward_arg__ if isinstance(hint, typing.ForwardRef) else hint for name, hint in found.items()}
