"""The server against its own OpenAPI schema: requests made from it, right and wrong ones."""

import pytest
import schemathesis
from bundle import export_tiny, train_tiny
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from plurallm.config.compose import load_tool_config
from plurallm.config.services import ServeConfig
from plurallm.reward import PreferenceRewardModel
from plurallm.reward.http.app import make_app


@pytest.fixture(scope="module")
def app_schema(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    bundle = export_tiny(train_tiny(folder), folder / "bundle")
    config = load_tool_config("serve", [f"bundle={bundle}", "allow_insecure=true"], ServeConfig)
    app = make_app(PreferenceRewardModel.from_pretrained(bundle), config, None)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_answer_is_what_the_schema_promises(app_schema, mode):
    operations = [result.ok() for result in app_schema.get_all_operations()]
    assert operations
    for operation in operations:
        if mode is schemathesis.GenerationMode.NEGATIVE and not operation.body:
            continue  # there is nothing that could be wrong

        @settings(
            max_examples=30,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            response = case.call()
            if response.status_code == 413:
                return  # too large, which the check of refusals does not count as one
            case.validate_response(
                response,
                checks=[
                    not_a_server_error,
                    status_code_conformance,
                    content_type_conformance,
                    response_schema_conformance,
                    negative_data_rejection,
                    unsupported_method,
                ],
            )

        check()
