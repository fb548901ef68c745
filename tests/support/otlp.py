"""Metrics as OpenTelemetry sends them, read the way Prometheus takes them in."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from support.receivers import Post


@dataclass(frozen=True)
class Sample:
    """A value of a gauge, by the name and labels that it has in Prometheus.

    Attributes:
        source: The job and the instance that Prometheus adds: the service and its instance.
    """

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    source: tuple[str, str] = ("", "")

    @property
    def label(self) -> dict[str, str]:
        return dict(self.labels)

    @property
    def exposition(self) -> str:
        """As a line of Prometheus' text format."""
        labels = ",".join(f'{key}="{value}"' for key, value in self.labels)
        return f"{self.name}{{{labels}}} {self.value!r}"


def gauges(posts: Iterable[Post]) -> list[Sample]:
    """All values of gauges, in the order in which they came.

    Names follow the OpenTelemetry specification's chapter on Prometheus: what is no letter, digit or underscore becomes
    an underscore; a gauge without a unit has no suffix.
    """
    found = []
    for post in posts:
        body = gzip.decompress(post.body) if post.headers.get("content-encoding") == "gzip" else post.body
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            told = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            source = (told.get("service.name", ""), told.get("service.instance.id", ""))
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                assert not (metric.HasField("gauge") and metric.unit), metric
                for point in metric.gauge.data_points:
                    labels = sorted((pair.key, pair.value.string_value) for pair in point.attributes)
                    name = re.sub(r"\W", "_", metric.name, flags=re.ASCII)
                    found.append(Sample(name, tuple(labels), point.as_double or float(point.as_int), source))
    return found


def matching(samples: Iterable[Sample], name: str, matchers: Mapping[str, tuple[str, str]]) -> list[Sample]:
    """Those of the samples that a selector takes."""

    def fits(label: Mapping[str, str], key: str, operator: str, value: str) -> bool:
        has = label.get(key, "")
        same = has == value if operator in {"=", "!="} else re.fullmatch(value, has) is not None
        return same is not operator.startswith("!")

    return [
        sample
        for sample in samples
        if sample.name == name and all(fits(sample.label, key, *said) for key, said in matchers.items())
    ]
