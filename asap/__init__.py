"""Align a simulator with a robot: train, replay, fit, fine-tune, evaluate, export."""

__version__ = "0.1.0"
