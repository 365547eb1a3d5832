"""Tensor maths only: readable references and their fast twins."""
