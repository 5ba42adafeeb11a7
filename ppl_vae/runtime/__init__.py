"""What knows nothing of models: seeds, files, processes, recorded graphs, checks of arguments."""
