"""Vendors, each behind the port of the context that needs it: Anthropic, Stripe, IoT, S3, SQS, SES, OAuth providers."""
