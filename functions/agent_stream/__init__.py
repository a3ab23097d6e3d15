"""Runs of agents as AG-UI events over a Lambda Function URL, as long as the model writes."""
