"""Calibration data: from what the user names to sequences of token ids."""
