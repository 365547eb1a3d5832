"""Artefacts, errors, tables, seeds and progress: what every room shares. No torch."""
