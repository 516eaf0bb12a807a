"""Digit scenes for the demo, and the mapper that feeds BlendMask."""
