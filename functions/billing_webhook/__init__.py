"""Stripe's webhook: verifies, stores, enqueues, and answers 200."""
