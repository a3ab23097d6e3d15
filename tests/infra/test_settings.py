"""A function's settings are exactly the variables that the stacks give it."""

import importlib
from dataclasses import MISSING, fields

import pytest

from infra.catalog import COMMON_ENVIRONMENT, FUNCTIONS, FunctionName
from karma.core.settings import FunctionSettings, SettingsError, load

READ_BY_LIBRARIES = {
    "POWERTOOLS_SERVICE_NAME",
    "POWERTOOLS_METRICS_NAMESPACE",
    "POWERTOOLS_LOG_LEVEL",
    "POWERTOOLS_LOGGER_SAMPLE_RATE",
}

MODULES = {
    FunctionName.API: "api.settings",
    FunctionName.AGENT_STREAM: "agent_stream.settings",
    FunctionName.EXECUTION: "agent_stream.settings:WorkerSettings",
    FunctionName.DEVICE_INGEST: "device_ingest.handler",
    FunctionName.DEVICE_FILES: "device_ingest.files",
    FunctionName.PROVISIONING: "device_ingest.provisioning",
    FunctionName.BILLING_WEBHOOK: "billing_webhook.handler",
    FunctionName.REALTIME: "realtime.settings",
    FunctionName.INBOX: "background.inbox",
    FunctionName.RUNS: "background.runs",
    FunctionName.DELETION: "background.deletion",
    FunctionName.FILES: "background.files",
    FunctionName.PREVIEWS: "previews.handler",
    FunctionName.SEGMENTS: "segments.handler",
    FunctionName.ROUTER: "background.router",
    FunctionName.METRICS: "background.metrics",
    FunctionName.SAMPLES: "background.samples",
    FunctionName.EVENTS: "background.events",
    FunctionName.WORK_ROUTER: "background.work_router",
    FunctionName.IDENTITY_ROUTER: "background.identity_router",
    FunctionName.PUSHES: "background.pushes",
    FunctionName.WEBHOOKS: "background.webhooks",
    FunctionName.MAIL: "background.mail",
    FunctionName.SCHEDULES: "background.schedules",
    FunctionName.TELEMETRY: "background.telemetry",
    FunctionName.QUEUE_SWEEPS: "background.sweeps.queues",
    FunctionName.TABLE_SWEEPS: "background.sweeps.tables",
    FunctionName.FILE_SWEEP: "background.sweeps.files",
    FunctionName.DEVICE_SWEEP: "background.sweeps.devices",
    FunctionName.FIRMWARE_SWEEP: "background.sweeps.firmware",
}


def settings_of(function: FunctionName) -> type[FunctionSettings]:
    module, _, name = MODULES[function].partition(":")
    found: type[FunctionSettings] = getattr(importlib.import_module(module), name or "Settings")
    return found


@pytest.mark.req("R-K-07", "R-K-08")
@pytest.mark.parametrize("function", list(FunctionName))
def test_settings_fields_are_the_environment(function: FunctionName) -> None:
    settings = settings_of(function)
    read = {field.name.upper() for field in fields(settings)}
    given = ({*COMMON_ENVIRONMENT} - READ_BY_LIBRARIES) | {*FUNCTIONS[function].environment}
    assert read == given


@pytest.mark.req("R-M-27")
@pytest.mark.parametrize("function", list(FunctionName))
def test_a_function_that_misses_a_variable_says_which(function: FunctionName) -> None:
    settings = settings_of(function)
    needed = [field.name.upper() for field in fields(settings) if field.default is MISSING]
    assert any(name.endswith("_TABLE") for name in needed)
    given = dict.fromkeys(needed, "given")
    assert load(settings, given).stage == "given"
    for name in needed:
        with pytest.raises(SettingsError, match=f"environment variable {name} is missing"):
            load(settings, {each: value for each, value in given.items() if each != name})
