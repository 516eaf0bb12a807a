"""One file a family of detectors: how a model of it runs, stage by stage."""
