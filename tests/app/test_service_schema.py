"""Questions drawn from the service's own schema, right and wrong ones: what comes is as it says."""

import pytest
from hypothesis import HealthCheck, given, settings

from write_engine import open_engine

pytest.importorskip("av")
pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

ADDRESSES = {
    *(("GET", f"/api/v1/{name}") for name in ("health", "version", "models")),
    *(("POST", f"/api/v1/classify{name}") for name in ("", "/features", "/again")),
}
"""All that the schema has to describe."""


@pytest.fixture
def described(moody_run, moody):
    """A service on an engine that takes little at a time, as its schema describes it."""
    import schemathesis

    from tcaf.app.service import create_app

    with open_engine(moody_run, max_json_mib=0.1, timeout_s=20.0) as engine:
        engine.warm()
        yield schemathesis.openapi.from_asgi("/api/v1/openapi.json", create_app(engine))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_comes_is_as_the_schema_says(described):
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    asked = []
    for found in described.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and operation.method.upper() == "GET":
                continue  # nothing of it can be wrong

            @settings(
                max_examples=40,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                # Statuses, types of content and bodies that are not described are errors, as is
                # a status of 500 or above.
                # That a question is as it should be does not mean that there is an answer: names
                # may be unknown, and random bytes are no clip.
                answer = case.call_and_validate(
                    excluded_checks=[positive_data_acceptance], timeout=60
                )
                asked.append(
                    (case.operation.method.upper(), case.operation.path, answer.status_code)
                )

            ask()
    assert {(method, path) for method, path, _ in asked} == ADDRESSES
    assert {200, 404, 422} <= {status for _, _, status in asked}
