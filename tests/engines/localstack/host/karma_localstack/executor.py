"""LocalStack's executor of functions, without Docker: each execution environment is a process of this machine."""

from __future__ import annotations

from pathlib import Path

from localstack import config
from localstack.services.lambda_.invocation.executor_endpoint import StatusErrorException
from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from localstack.services.lambda_.invocation.runtime_executor import RuntimeExecutor

from karma_localstack.process import Function, FunctionProcess
from karma_localstack.runtime_api import InitFailed

_DEFAULT_TIMEOUT_S = 3


class ProcessExecutor(RuntimeExecutor):
    """Executor of LocalStack over a `FunctionProcess`."""

    def __init__(self, id: str, function_version: FunctionVersion) -> None:  # noqa: A002 -- LocalStack's name
        super().__init__(id, function_version)
        self._process: FunctionProcess | None = None

    def get_address(self) -> str:
        return "127.0.0.1"

    def get_endpoint_from_executor(self) -> str:
        # Digits: SDKs then name buckets in the path; `<bucket>.localhost` does not resolve everywhere.
        return "127.0.0.1"

    def get_runtime_endpoint(self) -> str:
        # Of LocalStack's own init program, which is not used: the process talks to `RuntimeApi`.
        return f"http://127.0.0.1:{config.GATEWAY_LISTEN[0].port}/_localstack_lambda/{self.id}"

    def start(self, env_vars: dict[str, str]) -> None:
        settings = self.function_version.config
        given = {name: str(value) for name, value in env_vars.items() if not name.startswith("LOCALSTACK_")}
        function = Function(
            runtime=settings.runtime or "",
            handler=settings.handler or "",
            task_root=Path(settings.code.get_unzipped_code_location()),
            layers=[Path(layer.code.get_unzipped_code_location()) for layer in settings.layers],
            environment=given,
            timeout_s=float(settings.timeout or _DEFAULT_TIMEOUT_S),
        )
        self._process = FunctionProcess(function)
        try:
            self._process.start()
        except InitFailed as failed:
            raise StatusErrorException("the function does not start", payload=failed.answer.payload) from failed

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        assert self._process is not None
        request_id = payload["invoke-id"]
        outcome = self._process.invoke(
            request_id,
            payload["payload"].encode(),
            arn=payload["invoked-function-arn"],
            trace_id=payload.get("trace-id", ""),
        )
        log = outcome.log if outcome.log.endswith("\n") or not outcome.log else f"{outcome.log}\n"
        report = (
            f"Duration: {outcome.duration_ms:.2f} ms\tBilled Duration: {int(outcome.duration_ms) + 1} ms\t"
            f"Memory Size: {self.function_version.config.memory_size} MB\tMax Memory Used: {outcome.peak_mb} MB"
        )
        version = self.function_version.id.qualifier
        return InvocationResult(
            request_id,
            outcome.answer.payload,
            is_error=outcome.answer.is_error,
            logs=f"START RequestId: {request_id} Version: {version}\n{log}END RequestId: {request_id}\n"
            f"REPORT RequestId: {request_id}\t{report}\n",
        )

    def get_logs(self) -> str:
        return self._process.whole_log() if self._process is not None else ""

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        settings = function_version.config
        for code in (settings.code, *(layer.code for layer in settings.layers)):
            code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Leave unpacked archives: other functions use the same layers."""


class ProcessExecutorPlugin(RuntimeExecutorPlugin):
    """Plugin of the executor, chosen by `LAMBDA_RUNTIME_EXECUTOR=process`."""

    name = "process"

    def load(self, *_: object, **__: object) -> type[RuntimeExecutor]:
        return ProcessExecutor
