"""The scheduled sweeps, divided by the services of AWS that they need, so by what their roles allow (docs/adr/0041)."""
