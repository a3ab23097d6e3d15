"""Topics, and the certificate authority of AWS IoT."""

from __future__ import annotations

import pytest
from cryptography import x509

from karma.devices.topics import TopicSource, read_topic, request_topic, response_topic
from karma.integrations.iot import amazon_root_ca


@pytest.mark.parametrize(
    ("topic", "source"),
    [
        ("dt/karma/EOS-1/telemetry", TopicSource("telemetry", "EOS-1")),
        ("$aws/rules/karma_dev_data/dt/karma/EOS-1/heartbeat", TopicSource("heartbeat", "EOS-1")),
        ("dt/karma/EOS-1/event", TopicSource("event", "EOS-1")),
        ("cmd/karma/EOS-1/ready", TopicSource("ready", "EOS-1")),
        ("cmd/karma/EOS-1/response", TopicSource("response", "EOS-1")),
        ("$aws/events/presence/connected/EOS-1", TopicSource("presence", "EOS-1")),
        ("$aws/events/presence/connect_failed/EOS-1", TopicSource("presence", "EOS-1")),
        ("cmd/karma/EOS-1/request", None),
        ("dt/karma/EOS-1/ready", None),
        ("dt/karma//telemetry", None),
        ("dt/other/EOS-1/telemetry", None),
        ("dt/karma/EOS-1/telemetry/x", None),
        ("", None),
    ],
)
def test_a_topic_tells_the_device_and_the_kind_of_message(topic: str, source: TopicSource | None) -> None:
    assert read_topic(topic) == source


def test_a_device_hears_and_answers_under_its_own_name() -> None:
    assert (request_topic("EOS-1"), response_topic("EOS-1")) == ("cmd/karma/EOS-1/request", "cmd/karma/EOS-1/response")


def test_the_root_certificate_is_amazons() -> None:
    certificate = x509.load_pem_x509_certificate(amazon_root_ca().encode())
    assert "Amazon Root CA 1" in certificate.subject.rfc4514_string()
