"""Groups by the layers that make their channels."""


def group_of(groups, layer):
    """The group among whose members a layer makes channels."""
    return next(g for g in groups if (layer, "out") in [(m.layer, m.role) for m in g.members])
