"""Each function finds in its own dependency layer whatever its code can import, at its start or in a call."""

import pytest

from infra.catalog import FunctionName
from tests.support import reach

PACKAGES = sorted({name.package for name in FunctionName})


NEVER_CALLED = {
    ("agent_stream", "certifi"): "the root certificate of AWS IoT is for the answer to a device's creation, of api",
    ("device_ingest", "certifi"): "as above",
    ("agent_stream", "email_validator"): "addresses are judged where somebody gives one: in api",
    ("background", "email_validator"): "as above",
    (
        "background",
        "cryptography.exceptions",
    ): "signatures are checked where a release is made: in api; a sweep reads what was checked",
    ("background", "cryptography.hazmat.primitives.asymmetric.ed25519"): "as above",
    ("device_ingest", "email_validator"): "as above",
    ("previews", "email_validator"): "as above",
    ("realtime", "email_validator"): "as above",
    ("segments", "email_validator"): "as above",
    (
        "background",
        "jsonschema_rs",
    ): "arguments are judged where tools run; no schedule has answers",
}
"""Names in a file that a function loads for other things, and why no call of the function gets there."""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_layer_holds_every_module_that_its_functions_can_import(package: str) -> None:
    lacks = reach.missing(package, reach.reached(package))
    assert set(lacks) == {module for named, module in NEVER_CALLED if named == package}, lacks


@pytest.mark.parametrize("package", PACKAGES)
def test_no_library_lacks_a_part_that_its_functions_use(package: str) -> None:
    held = reach.locked(package)
    wanted = [each for each in sorted(reach.reached(package)) if reach.is_there(each[0], held)]
    assert wanted
    assert reach.changed(wanted, held) == []


def test_a_name_that_only_stands_in_for_a_missing_part_is_seen() -> None:
    """A layer with httpcore2 but without anyio has a name for the network, and nothing behind it."""
    held = reach.locked("background")
    wanted = [("httpcore2", "AnyIOBackend"), ("httpcore2", "ConnectError")]
    assert reach.changed(wanted, held) == []
    assert reach.changed(wanted, held - {"anyio"}) == ["httpcore2:AnyIOBackend"]


def test_an_import_within_a_function_is_seen() -> None:
    files = reach.reached("background")[("httpcore2", "AnyIOBackend")]
    assert files == {"layers/common/python/karma/integrations/guarded_http.py"}
    lacking = reach.missing("realtime", {("httpcore2", ""): files})
    assert lacking == {"httpcore2": sorted(files)}
