"""The dataset mapper for BlendMask."""
