def tables(folder):
    return ""
