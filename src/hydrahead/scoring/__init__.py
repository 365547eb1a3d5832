"""Scorers: how much every attention head of a teacher matters, one file per way to find out.

`table.py` lists the methods, `run.py` scores a model (`score_heads`) or writes an artefact
(`score`).
"""
