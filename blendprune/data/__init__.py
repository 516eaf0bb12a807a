"""The dataset mapper for BlendMask, and calibration images."""
