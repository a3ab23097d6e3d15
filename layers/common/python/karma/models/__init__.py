"""Language models behind one port: a request, the events of a turn, why a call failed, and what it costs.

- **Turn**: one answer of a model, text and calls of tools. **Usage**: tokens of a call. **Price**: what they cost.
"""
