"""What analytics make of sums: by day, by model and by key (contract B.15)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final

from traghetto.catalog.catalog import Catalog
from traghetto.money import Currency
from traghetto.storage.reports import UsageSum
from traghetto.wire.billing import LINE_KINDS, Range, json_number

TOP_MAX: Final = 8
_FIRST_DAY: Final = date(1970, 1, 1)

_Name = Callable[[UsageSum], str]


class _Sums:
    """The sums of one day, model, key or line; amounts in nano_usd."""

    def __init__(self) -> None:
        self.usd = 0
        self.diem = 0
        self.units = 0

    def add(self, row: UsageSum) -> None:
        """Count a row; bundled credits are USD."""
        if row.currency is Currency.DIEM:
            self.diem += row.amount
        else:
            self.usd += row.amount
        self.units += row.units

    @property
    def cost(self) -> int:
        """What ranks them."""
        return self.usd + self.diem


def analysis(
    asked: Range, sums: Sequence[UsageSum], key_names: Mapping[str, str], catalog: Catalog
) -> dict[str, Any]:
    """The body of the answer.

    `byModelDaily` and `byKeyDaily` have one object for each day of `byDate`, in the same order,
    whose members are the names of `topModels` and `topKeyNames`: the published schema admits
    nothing but numbers in them.
    """
    by_day = _summed(sums, lambda row: str(row.day))
    by_model = _summed(sums, lambda row: row.model)
    by_key = _summed(sums, lambda row: row.key_id)
    by_line = _summed(sums, lambda row: f"{row.model}\n{row.line}")
    top_models, top_keys = _ranked(by_model)[:TOP_MAX], _ranked(by_key)[:TOP_MAX]
    days = [str((day - _FIRST_DAY).days) for day in asked.days]
    return {
        "lookback": asked.lookback,
        "byDate": [
            {
                "date": day.isoformat(),
                "USD": json_number(by_day[number].usd),
                "DIEM": json_number(by_day[number].diem),
            }
            for day, number in zip(asked.days, days, strict=True)
        ],
        "byModel": [
            {
                "modelName": model,
                "unitType": _unit_type(model, sums),
                "modelType": None if (known := catalog.by_id(model)) is None else known.type,
                **_totals(by_model[model]),
                "breakdown": _breakdown(model, by_line),
            }
            for model in _ranked(by_model)
        ],
        "byModelDaily": _daily(days, sums, lambda row: row.model, {m: m for m in top_models}),
        "topModels": top_models,
        "byKey": [
            {"apiKeyId": key_id, "description": key_names[key_id], **_totals(by_key[key_id])}
            for key_id in _ranked(by_key)
        ],
        "byKeyDaily": _daily(
            days, sums, lambda row: row.key_id, {key: key_names[key] for key in top_keys}
        ),
        "topKeyNames": [key_names[key] for key in top_keys],
    }


def _unit_type(model: str, sums: Iterable[UsageSum]) -> str:
    """What the units of a model are, by the lines that it was charged for."""
    units = {LINE_KINDS[row.line].unit for row in sums if row.model == model}
    return "tokens" if "tokens" in units else units.pop()


def _summed(sums: Iterable[UsageSum], name: _Name) -> defaultdict[str, _Sums]:
    """Sums by what `name` says of a row."""
    found: defaultdict[str, _Sums] = defaultdict(_Sums)
    for row in sums:
        found[name(row)].add(row)
    return found


def _ranked(sums: Mapping[str, _Sums]) -> list[str]:
    """The names of `sums`, dearest first."""
    return sorted(sums, key=lambda name: (-sums[name].cost, name))


def _totals(sums: _Sums) -> dict[str, Any]:
    return {
        "totalUsd": json_number(sums.usd),
        "totalDiem": json_number(sums.diem),
        "totalUnits": sums.units,
    }


def _breakdown(model: str, by_line: Mapping[str, _Sums]) -> list[dict[str, Any]]:
    """The sums of one model by kind of line, where there are any."""
    return [
        {
            "type": kind.name,
            "usd": json_number(total.usd),
            "diem": json_number(total.diem),
            "units": total.units,
        }
        for line, kind in LINE_KINDS.items()
        if (total := by_line.get(f"{model}\n{line}")) is not None
    ]


def _daily(
    days: Iterable[str], sums: Iterable[UsageSum], name: _Name, shown: Mapping[str, str]
) -> list[dict[str, Any]]:
    """For each day what each name cost, as it is `shown`."""
    spent = _summed(sums, lambda row: f"{row.day} {name(row)}")
    return [
        {text: json_number(spent[f"{day} {each}"].cost) for each, text in shown.items()}
        for day in days
    ]
