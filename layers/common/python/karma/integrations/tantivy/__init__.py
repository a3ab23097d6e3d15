"""Tantivy, a library of indexes in files, behind the port of segments (karma/search/segments)."""
