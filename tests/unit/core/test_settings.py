"""A function's settings are read from variables of their names."""

from dataclasses import FrozenInstanceError

import pytest

from karma.core.settings import FunctionSettings, SettingsError, load


class Example(FunctionSettings, kw_only=True):
    devices_table: str
    mqtt_port: int = 8883


@pytest.mark.req("R-K-07", "R-K-08")
def test_fields_are_read_from_variables_of_their_names() -> None:
    settings = load(Example, {"STAGE": "dev", "DEVICES_TABLE": "t", "MQTT_PORT": "1883", "OTHER": "x"})
    assert settings == Example(stage="dev", devices_table="t", mqtt_port=1883)


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"STAGE": "dev"}, "DEVICES_TABLE"),
        ({"STAGE": "dev", "DEVICES_TABLE": ""}, "DEVICES_TABLE"),
        ({"STAGE": "dev", "DEVICES_TABLE": "t", "MQTT_PORT": "secret-value"}, "MQTT_PORT"),
    ],
)
def test_a_missing_or_unreadable_variable_is_named_and_its_value_is_not(env: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError, match=name) as failure:
        load(Example, env)
    assert "secret-value" not in str(failure.value)


def test_an_empty_optional_variable_counts_as_absent() -> None:
    assert load(Example, {"STAGE": "dev", "DEVICES_TABLE": "t", "MQTT_PORT": ""}).mqtt_port == 8883


def test_settings_cannot_be_changed() -> None:
    settings = load(Example, {"STAGE": "dev", "DEVICES_TABLE": "t"})
    with pytest.raises(FrozenInstanceError):
        settings.devices_table = "other"  # type: ignore[misc]
