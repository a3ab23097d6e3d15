"""Serving HTTP: routes, requests and answers, for every function that has routes; docs/http.md says why it is its own.

- **Route**: a function with a permission, a limit and a return type. **Router**: the routes of a module.
- **Edge**: what surrounds every request: its id, its origin, its errors, its line in the log.
- **Admission**: who calls, whether they may, and how often. **Serving**: what all that takes of the function.
- **Envelope**: how an answer and an error are written, under `/api/v1` and under `/api`.
"""
