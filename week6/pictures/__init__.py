"""Drawings of numbers; no models."""
