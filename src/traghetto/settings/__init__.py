"""Settings: declared in `fields`, read by `sources`, described by `annotations`."""

from traghetto.settings.annotations import SettingRow, setting_rows, table_rows
from traghetto.settings.fields import (
    MINORS_CATEGORY,
    Moderation,
    ModerationEffect,
    RateNumbers,
    Settings,
    SimulatorFault,
    SizeClass,
    Upstream,
    default_data_dir,
    outlives_hold,
)
from traghetto.settings.invalid import (
    Origin,
    SettingInvalid,
    dotted,
    environment_name,
    flag_name,
    unknown_name,
)
from traghetto.settings.sources import (
    SETTING_NAMES,
    build_settings,
    convert_field,
    convert_table,
)

__all__ = [
    "MINORS_CATEGORY",
    "SETTING_NAMES",
    "Moderation",
    "ModerationEffect",
    "Origin",
    "RateNumbers",
    "SettingInvalid",
    "SettingRow",
    "Settings",
    "SimulatorFault",
    "SizeClass",
    "Upstream",
    "build_settings",
    "convert_field",
    "convert_table",
    "default_data_dir",
    "dotted",
    "environment_name",
    "flag_name",
    "outlives_hold",
    "setting_rows",
    "table_rows",
    "unknown_name",
]
