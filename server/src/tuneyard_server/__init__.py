"""Serving: fetch, verify, launch, guard."""
