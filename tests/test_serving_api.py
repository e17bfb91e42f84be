"""The server against its own OpenAPI schema: requests made from it, right and wrong ones."""

import pytest
import schemathesis
from bundle import export_tiny, train_tiny
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from plurallm.config import ServeConfig, load_tool_config
from plurallm.reward import PreferenceRewardModel
from plurallm.serving import make_app


@pytest.fixture(scope="module")
def app_schema(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    bundle = export_tiny(train_tiny(folder), folder / "bundle")
    config = load_tool_config("serve", [f"bundle={bundle}", "allow_insecure=true"], ServeConfig)
    app = make_app(PreferenceRewardModel.from_pretrained(bundle), config, None)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


schema = schemathesis.pytest.from_fixture("app_schema")


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_what_the_schema_promises(case):
    case.call_and_validate(
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
            negative_data_rejection,
            unsupported_method,
        ]
    )
