"""template.yaml and serverless.yml: what SAM and cfn-lint say of them, and the limits that those do not know."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.telemetry import log_invocation

TEMPLATE = Path(str(files("hpe_tasks.packaging"))) / "template.yaml"
SERVERLESS = TEMPLATE.with_name("serverless.yml")
TEMPLATES_OWN_NAMES = {"AWS::Partition": "aws", "AWS::Region": "eu-central-1", "AWS::AccountId": "123456789012"}
FROM_REGISTRY = {"RegistryBucket": "models", "RegistryPrefix": "hpe/registry", "ModelName": "pose"}

# The transformation that CloudFormation applies: a line of values for the template's parameters in, a template out.
TRANSFORM = """
import json, sys
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

class Policies:
    def load(self):
        return {}

for line in sys.stdin:
    template = yaml_parse(open(sys.argv[1]).read())
    template["Resources"]["Function"]["Properties"]["CodeUri"] = "s3://packages/package.zip"
    values = {name: described.get("Default") for name, described in template["Parameters"].items()} | json.loads(line)
    print(json.dumps({**transform(template, dict(values), Policies()), "values": values}), flush=True)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("home")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AWS_DEFAULT_REGION": "eu-central-1",
        "SAM_CLI_TELEMETRY": "0",
    }


class Deployed:
    """The template's resources as CloudFormation would make them for some values of the parameters."""

    def __init__(self, template: dict[str, Any]) -> None:
        self._values = template["values"] | TEMPLATES_OWN_NAMES
        self._conditions = template.get("Conditions", {})
        self._template = template
        self.resources = {
            name: self._resolve(resource)
            for name, resource in template["Resources"].items()
            if "Condition" not in resource or self._holds(resource["Condition"])
        }

    @property
    def outputs(self) -> dict[str, Any]:
        outputs = self._template["Outputs"].items()
        return {k: self._resolve(v) for k, v in outputs if "Condition" not in v or self._holds(v["Condition"])}

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [r["Properties"] for r in self.resources.values() if r["Type"] == kind]

    @property
    def function(self) -> dict[str, Any]:
        (function,) = self.of_type("AWS::Lambda::Function")
        return function

    def statements(self) -> Iterator[dict[str, Any]]:
        for policy in self.resources["Role"]["Properties"]["Policies"]:
            yield from policy["PolicyDocument"]["Statement"]

    def _holds(self, condition: str) -> bool:
        return bool(self._resolve(self._conditions[condition]))

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            return [item for item in map(self._resolve, value) if item is not None]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((key, argument),) = value.items()
            if key == "Condition" and isinstance(argument, str):
                return self._holds(argument)
            if key == "Ref" or key.startswith("Fn::"):
                return self._call(key, argument)
        resolved = {
            key: self._resolve(item) for key, item in value.items() if key != "Condition" or isinstance(item, dict)
        }
        return {key: item for key, item in resolved.items() if item is not None}

    def _call(self, name: str, argument: Any) -> Any:
        match name:
            case "Ref":
                return None if argument == "AWS::NoValue" else self._values.get(argument, f"<{argument}>")
            case "Fn::GetAtt":
                return f"<{'.'.join(argument)}>"
            case "Fn::Sub":
                text, names = argument if isinstance(argument, list) else (argument, {})
                known = self._values | names
                return re.sub(r"\$\{([^}]+)\}", lambda m: str(known.get(m[1], f"<{m[1]}>")), text)
            case "Fn::If":
                return self._resolve(argument[1] if self._holds(argument[0]) else argument[2])
            case "Fn::Equals":
                first, second = map(self._resolve, argument)
                return str(first) == str(second)
            case "Fn::Not":
                return not self._resolve(argument[0])
            case "Fn::And":
                return all(map(self._resolve, argument))
            case "Fn::Or":
                return any(map(self._resolve, argument))
        raise AssertionError(name)


@pytest.fixture(scope="module")
def deployed(lambda_python: Path, environment: dict[str, str]) -> Iterator[Callable[..., Deployed]]:
    command: list[str | Path] = [lambda_python, "-c", TRANSFORM, TEMPLATE]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as sam:

        def transform(**values: Any) -> Deployed:
            assert sam.stdin is not None
            assert sam.stdout is not None
            sam.stdin.write(json.dumps(values) + "\n")
            return Deployed(json.loads(sam.stdout.readline()))

        yield transform


@pytest.fixture(scope="module")
def default(deployed: Callable[..., Deployed]) -> Deployed:
    return deployed(**FROM_REGISTRY)


@pytest.fixture(scope="module")
def parameters(default: Deployed) -> dict[str, dict[str, Any]]:
    return default._template["Parameters"]


def test_sam_validates_and_lints_the_template(lambda_python: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [lambda_python.with_name("sam"), "validate", "--lint", "--template-file", TEMPLATE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_cfn_lint_finds_nothing(lambda_python: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [
            lambda_python.with_name("cfn-lint"),
            "--include-checks",
            "I",
            "--regions",
            "eu-central-1",
            "--",
            TEMPLATE,
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_memory_and_storage_stay_within_lambdas_limits(parameters: dict[str, dict[str, Any]]) -> None:
    memory, storage = parameters["MemoryMb"], parameters["EphemeralStorageMb"]
    # The largest network takes 160 MB, and images come on top.
    assert 512 <= memory["MinValue"] <= memory["Default"] <= memory["MaxValue"] <= 10240
    assert 512 <= storage["MinValue"] <= storage["Default"] <= storage["MaxValue"] <= 10240


def test_snapstart_takes_512_mb_of_storage_a_zip_and_a_python_that_has_it(
    default: Deployed, deployed: Callable[..., Deployed]
) -> None:
    rule = default._template["Rules"]["SnapStartStorage"]
    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "SnapStart"}, "PublishedVersions"]}
    assert rule["Assertions"][0]["Assert"] == {"Fn::Equals": [{"Ref": "EphemeralStorageMb"}, "512"]}
    function = deployed(**FROM_REGISTRY, SnapStart="PublishedVersions").function
    assert function["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    assert tuple(map(int, function["Runtime"].removeprefix("python").split("."))) >= (3, 12)
    assert "ImageUri" not in function["Code"]
    assert default.function["SnapStart"] == {"ApplyOn": "None"}


def test_the_function_gives_up_before_an_http_api_does(deployed: Callable[..., Deployed]) -> None:
    found = deployed(**FROM_REGISTRY, Endpoint="http-api")
    (integration,) = found.of_type("AWS::ApiGatewayV2::Integration")
    assert found.function["Timeout"] <= 29
    assert found.function["Timeout"] * 1000 < integration["TimeoutInMillis"] <= 30_000


def test_the_rights_are_those_that_the_function_needs(default: Deployed) -> None:
    log, read = default.statements()
    assert log == {
        "Effect": "Allow",
        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Resource": "<LogGroup.Arn>",
    }
    assert read == {
        "Effect": "Allow",
        "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::models/hpe/registry/*",
    }
    role = default.resources["Role"]["Properties"]
    assert "ManagedPolicyArns" not in role
    assert default.function["Role"] == "<Role.Arn>"


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("registry", [False, True])
def test_no_right_has_a_wildcard_above_its_prefix(
    deployed: Callable[..., Deployed], registry: bool, images: bool
) -> None:
    values = FROM_REGISTRY if registry else {}
    found = deployed(**values, **({"ImageBucket": "photos", "ImagePrefix": "in"} if images else {}))
    statements = list(found.statements())
    assert len(statements) == 1 + registry + images
    for statement in statements:
        actions, resources = (
            [value] if isinstance(value, str) else value for value in (statement["Action"], statement["Resource"])
        )
        assert not any("*" in action for action in actions)
        for resource in resources:
            assert "*" not in resource.removesuffix("/*")
            assert resource.count("/") >= 2 or not resource.endswith("*")
    assert {statement["Action"] for statement in statements[1:]} <= {"s3:GetObject"}


@pytest.mark.parametrize("prefix", ["", "/", "*", "registry/", "a//b", "a b", "../x*"])
def test_the_prefix_cannot_widen_the_rights(parameters: dict[str, dict[str, Any]], prefix: str) -> None:
    for name in ("RegistryPrefix", "ImagePrefix"):
        assert not re.fullmatch(parameters[name]["AllowedPattern"], prefix)
        assert re.fullmatch(parameters[name]["AllowedPattern"], "team/registry-1")


def test_the_function_understands_its_settings(deployed: Callable[..., Deployed]) -> None:
    key = "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="
    found = deployed(
        **FROM_REGISTRY,
        Channel="staging",
        RefreshSeconds=30,
        PublicKey=key,
        ChannelMinCounter="1795000000000",
        CorsOrigins="https://a.example,https://b.example",
        ImageBucket="photos",
        ImagePrefix="in",
        MaxImageBytes="2000000",
        MaxPixels="12000000",
    )
    variables = {name: str(value) for name, value in found.function["Environment"]["Variables"].items()}
    settings = ServingSettings.from_environment(variables, Path("/var/task"))
    assert settings.registry == "s3://models/hpe/registry"
    assert (settings.model, settings.channel, settings.refresh_s) == ("pose", "staging", 30)
    assert (len(settings.public_keys), settings.min_counter) == (1, 1_795_000_000_000)
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert [prefix.rstrip("/") for prefix in settings.image_prefixes] == ["s3://photos/in"]
    assert (settings.max_image_bytes, settings.max_pixels) == (2_000_000, 12_000_000)
    pattern = found._template["Parameters"]["PublicKey"]["AllowedPattern"]
    assert re.fullmatch(pattern, key)
    assert re.fullmatch(pattern, f"{key},{key}")
    assert not re.fullmatch(pattern, f"{key},{key},{key}")


def test_without_a_registry_the_function_serves_the_packages_model(deployed: Callable[..., Deployed]) -> None:
    variables = {n: str(v) for n, v in deployed().function["Environment"]["Variables"].items()}
    settings = ServingSettings.from_environment(variables, Path("/var/task"))
    assert settings.registry is None
    assert settings.model_dir == Path("/var/task/model")
    assert settings == ServingSettings.from_environment({}, Path("/var/task"))


@pytest.mark.parametrize(
    ("name", "variable", "largest"),
    [("MaxImageBytes", "HPE_MAX_IMAGE_BYTES", "9" * 9), ("MaxPixels", "HPE_MAX_PIXELS", "9" * 8)],
)
def test_limits_of_images_are_the_functions_or_what_it_takes(
    parameters: dict[str, dict[str, Any]], name: str, variable: str, largest: str
) -> None:
    pattern = parameters[name]["AllowedPattern"]
    for value in ("", "1", largest):
        assert re.fullmatch(pattern, value)
        ServingSettings.from_environment({variable: value}, Path("/var/task"))
    assert not any(re.fullmatch(pattern, value) for value in ("0", "-1", "1e6", "4.5", f"1{largest}"))


def test_the_handler_is_the_one_that_ships(default: Deployed) -> None:
    assert default.function["Handler"] == "hpe_tasks.serving.handler.handler"
    assert files("hpe_tasks.serving").joinpath("handler.py").is_file()
    assert yaml.safe_load(SERVERLESS.read_text())["functions"]["pose"]["handler"] == default.function["Handler"]


@pytest.mark.parametrize("endpoint", ["function-url", "http-api", "none"])
def test_errors_roll_a_new_version_back(deployed: Callable[..., Deployed], endpoint: str) -> None:
    found = deployed(**FROM_REGISTRY, Endpoint=endpoint, Rollout="Linear10PercentEvery1Minute")
    (group,) = found.of_type("AWS::CodeDeploy::DeploymentGroup")
    assert "DEPLOYMENT_STOP_ON_ALARM" in group["AutoRollbackConfiguration"]["Events"]
    assert group["AlarmConfiguration"]["Enabled"] is True
    watched = {alarm["Name"] for alarm in group["AlarmConfiguration"]["Alarms"]}
    assert watched == {"<ErrorAlarm>", "<FailedAnswerAlarm>"}
    assert {f"<{name}>" for name, r in found.resources.items() if r["Type"] == "AWS::CloudWatch::Alarm"} == watched
    alias = found.resources["FunctionAliaslive"]
    assert "CodeDeployLambdaAliasUpdate" in alias["UpdatePolicy"]
    errors = found.resources["ErrorAlarm"]["Properties"]
    assert {d["Name"]: d["Value"] for d in errors["Dimensions"]} == {
        "FunctionName": "<Function>",
        "Resource": "<Function>:live",
    }


@pytest.mark.parametrize("endpoint", ["function-url", "http-api", "none"])
def test_answers_of_500_raise_an_alarm_whoever_invokes_the_function(
    deployed: Callable[..., Deployed], endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = deployed(**FROM_REGISTRY, Endpoint=endpoint)
    alarm = found.resources["FailedAnswerAlarm"]["Properties"]
    variables = {name: str(value) for name, value in found.function["Environment"]["Variables"].items()}
    namespace = ServingSettings.from_environment(variables, Path("/var/task")).metrics_namespace
    log_invocation(namespace, {"status": 500, "function": "pose", "server_errors": 1})
    (printed,) = json.loads(capsys.readouterr().out)["_aws"]["CloudWatchMetrics"]
    assert alarm["Namespace"] == printed["Namespace"]
    assert alarm["MetricName"] in {metric["Name"] for metric in printed["Metrics"]}
    # The function logs its name under this dimension.
    assert alarm["Dimensions"] == [{"Name": "function", "Value": "<Function>"}]
    assert ["function"] in printed["Dimensions"]
    assert (alarm["Statistic"], alarm["Threshold"]) == ("Sum", 1)
    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"


def test_browsers_may_call_from_elsewhere_only_where_nobody_signs(default: Deployed) -> None:
    """Preflight requests carry no signature: an address with AWS_IAM refuses them before the function runs."""
    rule = default._template["Rules"]["CorsWithoutSignatures"]
    assert rule["RuleCondition"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "CorsOrigins"}, ""]}]}
    (assertion,) = rule["Assertions"]
    assert assertion["Assert"] == {"Fn::Equals": [{"Ref": "Authorization"}, "NONE"]}
    assert "CorsOrigins needs Authorization NONE" in assertion["AssertDescription"]


@pytest.mark.parametrize("authorization", ["AWS_IAM", "NONE"])
@pytest.mark.parametrize("endpoint", ["function-url", "http-api", "none"])
def test_there_is_one_address_and_everybody_may_call_it_only_if_asked_for(
    deployed: Callable[..., Deployed], endpoint: str, authorization: str
) -> None:
    found = deployed(**FROM_REGISTRY, Endpoint=endpoint, Authorization=authorization)
    urls, routes = found.of_type("AWS::Lambda::Url"), found.of_type("AWS::ApiGatewayV2::Route")
    assert (len(urls), len(routes)) == {"function-url": (1, 0), "http-api": (0, 1), "none": (0, 0)}[endpoint]
    assert {u["AuthType"] for u in urls} | {r["AuthorizationType"] for r in routes} <= {authorization}
    assert {u["Qualifier"] for u in urls} <= {"live"}
    open_to_all = [p for p in found.of_type("AWS::Lambda::Permission") if p["Principal"] == "*"]
    assert bool(open_to_all) == (endpoint == "function-url" and authorization == "NONE")
    assert all(p.get("FunctionUrlAuthType") == "NONE" or p.get("InvokedViaFunctionUrl") for p in open_to_all)
    assert ("Url" in found.outputs) == (endpoint != "none")
    # Addresses and permissions are the alias's: a version that is not rolled out yet is never called.
    assert {p["FunctionName"] for p in found.of_type("AWS::Lambda::Permission")} <= {"<FunctionAliaslive>"}


def test_by_default_nobody_calls_it_unsigned(default: Deployed) -> None:
    assert default.of_type("AWS::Lambda::Url")[0]["AuthType"] == "AWS_IAM"


def test_logs_end_and_concurrency_is_the_accounts_unless_reserved(
    default: Deployed, deployed: Callable[..., Deployed]
) -> None:
    (log,) = default.of_type("AWS::Logs::LogGroup")
    assert log["RetentionInDays"] == 30
    assert default.function["LoggingConfig"]["LogGroup"] == "<LogGroup>"
    assert "ReservedConcurrentExecutions" not in default.function
    assert deployed(**FROM_REGISTRY, ReservedConcurrency=5).function["ReservedConcurrentExecutions"] == 5


def test_architectures_are_those_that_are_built(parameters: dict[str, dict[str, Any]]) -> None:
    locks = {f.name for f in files("hpe_tasks.packaging").iterdir() if f.name.startswith("requirements-")}
    assert {f"requirements-{a}.txt" for a in parameters["Architecture"]["AllowedValues"]} == locks


@pytest.fixture(scope="module")
def serverless() -> dict[str, Any]:
    """serverless.yml with its own parameters filled in."""
    text = SERVERLESS.read_text()
    known = yaml.safe_load(text)["params"]["default"] | {"registryBucket": "models"}
    assert set(re.findall(r"\$\{param:(\w+)\}", text)) == known.keys()
    text = re.sub(r"\$\{param:(\w+)\}", lambda m: str(known[m[1]]), text)
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def test_serverless_framework_gets_the_same_function(serverless: dict[str, Any], default: Deployed) -> None:
    assert serverless.keys() == {"service", "frameworkVersion", "params", "provider", "package", "functions"}
    provider, function = serverless["provider"], serverless["functions"]["pose"]
    ours = default.function
    assert (provider["name"], provider["runtime"], provider["architecture"]) == ("aws", ours["Runtime"], "x86_64")
    assert serverless["package"] == {"artifact": "package.zip"}
    assert (function["memorySize"], function["timeout"]) == (ours["MemorySize"], ours["Timeout"])
    assert provider["logRetentionInDays"] == 30
    settings = ServingSettings.from_environment(function["environment"], Path("/var/task"))
    assert (settings.registry, settings.channel) == ("s3://models/registry", "production")
    # The framework itself adds the rights to write logs.
    (read,) = provider["iam"]["role"]["statements"]
    assert (read["Action"], read["Resource"]) == ("s3:GetObject", "arn:aws:s3:::models/registry/*")
    assert function["events"] == [{"httpApi": {"method": "*", "path": "*", "authorizer": {"type": "aws_iam"}}}]
