"""Services that do not depend on models: seeds, files, processes, recorded graphs, checks."""
