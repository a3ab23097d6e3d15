"""Alarms on 5xx answers, crashes, unhandled messages, and business facts that must not happen.

Lambda's own `Errors` stays 0 when a web framework turns an exception into a 500, so crashes are counted by the metric
`UnhandledError` too, which every process edge emits (dimension `service`).
"""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from infra.catalog import METRICS_NAMESPACE, FunctionName
from infra.constructs.python_function import PythonFunction

MINUTE = Duration.minutes(1)


def business_metric(name: str, service: FunctionName, *, period: Duration = MINUTE) -> cloudwatch.Metric:
    """Return a metric that our code emits through Powertools."""
    return cloudwatch.Metric(
        namespace=METRICS_NAMESPACE,
        metric_name=name,
        dimensions_map={"service": service.value},
        statistic="Sum",
        period=period,
    )


def crash_metric(function: PythonFunction) -> cloudwatch.MathExpression:
    """Return the crashes of one function: answers that were bugs, and invocations that failed."""
    # Ids are per function, since one graph shows all of them.
    unhandled, failed = (f"{kind}{function.spec.name.label}" for kind in ("unhandled", "failed"))
    return cloudwatch.MathExpression(
        expression=f"FILL({unhandled}, 0) + FILL({failed}, 0)",
        using_metrics={
            unhandled: business_metric("UnhandledError", function.spec.name),
            failed: function.target.metric_errors(period=MINUTE, statistic="Sum"),
        },
        label=function.spec.name.value,
        period=MINUTE,
    )


def alarm(
    scope: Construct,
    construct_id: str,
    metric: cloudwatch.IMetric,
    *,
    description: str,
    threshold: float = 1,
    periods: int = 1,
) -> cloudwatch.Alarm:
    """Make an alarm at `threshold` or above; missing data is no alarm."""
    return cloudwatch.Alarm(
        scope,
        construct_id,
        metric=metric,
        threshold=threshold,
        evaluation_periods=periods,
        comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
        treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        alarm_description=description,
    )


def crash_alarm(scope: Construct, construct_id: str, function: PythonFunction) -> cloudwatch.Alarm:
    """Make the alarm on which a release is rolled back."""
    return alarm(scope, construct_id, crash_metric(function), description=f"{function.spec.name} crashed")


def http_5xx(api_id: str) -> cloudwatch.Metric:
    """Return the 5xx answers of an HTTP API."""
    return cloudwatch.Metric(
        namespace="AWS/ApiGateway", metric_name="5xx", dimensions_map={"ApiId": api_id}, statistic="Sum", period=MINUTE
    )


def http_p99(api_id: str) -> cloudwatch.Metric:
    """Return the 99th percentile of an HTTP API's latency in milliseconds."""
    return cloudwatch.Metric(
        namespace="AWS/ApiGateway",
        metric_name="Latency",
        dimensions_map={"ApiId": api_id},
        statistic="p99",
        period=MINUTE,
    )


def url_5xx(function: PythonFunction) -> cloudwatch.Metric:
    """Return the 5xx answers of a function URL."""
    return function.target.metric("Url5xxCount", statistic="Sum", period=MINUTE)
