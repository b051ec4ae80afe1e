"""Tests of the training code, `models/`."""
