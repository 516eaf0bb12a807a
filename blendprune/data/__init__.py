"""Data: digit scenes, the mapper for BlendMask, calibration images."""
