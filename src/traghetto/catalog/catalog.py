"""The catalogue: which model a name means, and the listings clients read.

Invariants: a `Catalog` never changes (a reload builds another); looking a name up is a few
dictionary look-ups; every listing is encoded at construction; a name means one model at most.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from traghetto.catalog.listing import encode, model_object
from traghetto.catalog.model import Model, ModelType

MODEL_TYPES: Final[tuple[ModelType, ...]] = typing.get_args(ModelType)
LISTING_TYPES: Final[tuple[str, ...]] = (*MODEL_TYPES, "all", "code")
MODEL_PRIVACIES: Final = ("ALL", "PRIVATE_TEXT", "PRIVATE_ONLY")
DEFAULT_TRAIT: Final = "default"
NAME_CHARACTERS_MAX: Final = 256
"""Longer names are not normalised: no model has one."""

_PREFIXES: Final = ("venice-", "venice/")
_SEPARATORS: Final = str.maketrans("._ ", "---")


class NameTaken(ValueError):
    """A name of `model` already means another model."""

    def __init__(self, model: Model, problem: str) -> None:
        super().__init__(problem)
        self.model = model


class Catalog:
    """The models of one configuration. Raises `NameTaken` where two models claim one name."""

    def __init__(self, models: Iterable[Model]) -> None:
        self.models: tuple[Model, ...] = tuple(models)
        self._by_id = _index_ids(self.models)
        self._traits = {kind: _index_names(self.models, kind, "traits") for kind in MODEL_TYPES}
        self._aliases = {kind: _index_names(self.models, kind, "aliases") for kind in MODEL_TYPES}
        for kind in MODEL_TYPES:
            for alias, model in self._aliases[kind].items():
                if self._by_id.get(alias, model) is not model:
                    problem = f"alias {alias!r} of model {model.id!r} is the id of another model"
                    raise NameTaken(model, problem)
        self._tolerant = {kind: self._index_tolerant(kind) for kind in MODEL_TYPES}
        self._objects = {model.id: encode(model_object(model)) for model in self.models}
        self._listings = {
            (kind, privacy): self._encode_listing(kind, privacy)
            for kind in LISTING_TYPES
            for privacy in MODEL_PRIVACIES
        }

    def resolve(self, requested: str, kind: ModelType = "text") -> Model | None:
        """The model that a client means by `requested`, or None.

        Tried in order: an id, a trait and an alias among models of type `kind` (the endpoint's
        own), then the same without regard to case, to `.`, `_`, space or `-`, and to a `venice-`
        prefix (contract B.1.1). An id of another type resolves too: it is the endpoint that
        refuses it.
        """
        model = (
            self._by_id.get(requested)
            or self._traits[kind].get(requested)
            or self._aliases[kind].get(requested)
        )
        if model is None and len(requested) <= NAME_CHARACTERS_MAX:
            return self._tolerant[kind].get(tolerant_form(requested))
        return model

    def default(
        self, kind: ModelType, suits: Callable[[Model], bool] = lambda _: True
    ) -> Model | None:
        """The model of type `kind` that serves who names none: the one with the trait `default`,
        else the first one, of those that suit."""
        suitable = [model for model in self.models if model.type == kind and suits(model)]
        chosen = (model for model in suitable if DEFAULT_TRAIT in model.traits)
        return next(chosen, suitable[0] if suitable else None)

    def by_id(self, model_id: str) -> Model | None:
        """The model with exactly that id."""
        return self._by_id.get(model_id)

    def listed(self, kind: str, model_privacy: str = "ALL") -> list[Model]:
        """The models of `listing`."""
        return [
            model
            for model in self.models
            if _is_listed(model, kind) and model.admits(model_privacy)
        ]

    def listing(self, kind: str, model_privacy: str = "ALL") -> bytes:
        """The answer of `GET /models?type=`: `kind` is one of `LISTING_TYPES`."""
        return self._listings[kind, model_privacy]

    def encoded_object(self, model: Model) -> bytes:
        """One model as its listing shows it."""
        return self._objects[model.id]

    def traits(self, kind: ModelType, model_privacy: str = "ALL") -> dict[str, str]:
        """Model ids by trait; a trait that no model has is absent."""
        return _ids(self._traits[kind], model_privacy)

    def aliases(self, kind: ModelType, model_privacy: str = "ALL") -> dict[str, str]:
        """Model ids by the foreign names that stand for them."""
        return _ids(self._aliases[kind], model_privacy)

    def _encode_listing(self, kind: str, privacy: str) -> bytes:
        return encode(
            {
                "object": "list",
                "type": kind,
                "data": [
                    msgspec.Raw(self._objects[model.id]) for model in self.listed(kind, privacy)
                ],
            }
        )

    def _index_tolerant(self, kind: ModelType) -> dict[str, Model]:
        """Every name in its tolerant form, unless two models share that form."""
        found: dict[str, Model | None] = {}
        for names in (self._aliases[kind], self._traits[kind], self._by_id):
            for name, model in names.items():
                form = tolerant_form(name)
                found[form] = model if found.get(form, model) is model else None
        return {form: model for form, model in found.items() if model is not None}


def tolerant_form(name: str) -> str:
    """`name` without the differences that clients get wrong."""
    form = name.strip().casefold()
    for prefix in _PREFIXES:
        form = form.removeprefix(prefix)
    return form.translate(_SEPARATORS)


@dataclasses.dataclass(frozen=True, slots=True)
class Merged:
    """The models of a configuration file together with those that were found."""

    models: tuple[Model, ...]
    free_ids: tuple[str, ...]
    """Found models that nobody priced; they cost 0."""

    def free_line(self) -> str | None:
        """The one start-up line about prices of 0, or None where there are none."""
        if not self.free_ids:
            return None
        shown = ", ".join(self.free_ids[:_IDS_SHOWN])
        more = len(self.free_ids) - _IDS_SHOWN
        names = f"{shown} and {more} more" if more > 0 else shown
        return f"No price is configured, so these models cost 0 USD: {names}"


_IDS_SHOWN: Final = 5


def merge(written: Sequence[Model], found: Sequence[Model]) -> Merged:
    """Join models of the file with found ones; what the file says about an id holds.

    An entry of the file without backends takes those found under its id: that is how an operator
    prices a model of a server that is only named on the command line. Backends found twice under
    one id become replicas of one model. A found id that the file gave away as an alias is left out.
    """
    joined: dict[str, Model] = {model.id: model for model in written}
    aliases = {alias for model in written for alias in model.aliases}
    bare = {model.id for model in written if not model.backends}
    free: list[str] = []
    for model in found:
        known = joined.get(model.id)
        if known is None:
            if model.id in aliases:
                continue
            joined[model.id] = model
            free.append(model.id)
        elif model.id in bare or model.id in free:
            joined[model.id] = dataclasses.replace(
                known,
                backends=(*known.backends, *model.backends),
                context_tokens=known.context_tokens or model.context_tokens,
            )
    return Merged(tuple(joined.values()), tuple(free))


def _is_listed(model: Model, kind: str) -> bool:
    if kind == "code":
        return model.type == "text" and model.capabilities.optimizedForCode
    return kind in {"all", model.type}


def _index_ids(models: Sequence[Model]) -> dict[str, Model]:
    index: dict[str, Model] = {}
    for model in models:
        if model.id in index:
            raise NameTaken(model, f"two models have the id {model.id!r}")
        index[model.id] = model
    return index


def _index_names(
    models: Sequence[Model], kind: ModelType, member: typing.Literal["traits", "aliases"]
) -> dict[str, Model]:
    index: dict[str, Model] = {}
    for model in models:
        if model.type != kind:
            continue
        for name in model.traits if member == "traits" else model.aliases:
            if index.setdefault(name, model) is not model:
                problem = (
                    f"models {index[name].id!r} and {model.id!r} both have {name!r} in {member}"
                )
                raise NameTaken(model, problem)
    return index


def _ids(names: dict[str, Model], model_privacy: str) -> dict[str, str]:
    return {name: model.id for name, model in names.items() if model.admits(model_privacy)}
