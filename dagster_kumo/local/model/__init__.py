"""The data, the tasks and the models behind the stand-in's predictions."""
