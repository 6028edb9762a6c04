"""What predicts: the data, the tasks and the models of the stand-in."""
