"""The description has `Idempotency-Key` on exactly the operations that read it: generated clients can send it."""

from __future__ import annotations

import re

import pytest

from karma.core.ids import new_id
from tests.integration.permissions.world import World, bearer, targets
from tests.support import contexts, contract


@pytest.mark.fault("F-21k")
def test_an_operation_has_the_header_in_its_description_exactly_if_it_reads_it(world: World) -> None:
    world.become("api")
    reads = set()
    for target in targets():
        if target.function != "api" or target.method == "GET":
            continue
        make = contexts.bodies().get(f"{target.method} {target.path}")
        world.start_over()  # somebody was logged out, or deleted
        body = make(world, "user") if make else None
        # The key is looked at before anything is: what the path names need not be there.
        path = re.sub(r"\{\w+\}", new_id(), target.path)
        answer = world.send(target, path, body, bearer(world.stranger().token) | {"idempotency-key": "a key"})
        if answer.status == 403:
            answer = world.send(target, path, body, bearer(world.person("admin").token) | {"idempotency-key": "a key"})
        if "Idempotency-Key: 1 to 255" in answer.text:  # Agio's failures have no code
            reads.add((target.path, target.method.lower()))
            assert answer.status == 400
    described = {
        (path, method)
        for path, operations in contract.committed("api")["paths"].items()
        for method, operation in operations.items()
        if any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", ()))
    }
    assert reads == described
    assert len(reads) > 10
