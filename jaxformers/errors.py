"""The errors a user can cause. Each message is one complete sentence: what it is about, what was expected, what was found.

Programs (experiments, the command line) print the sentence and exit with status 2; a traceback is for our own bugs.
"""


class InputError(ValueError):
    """Something that was handed to us is wrong: a flag, a path, a text, a shape."""


class ConfigError(InputError):
    """A config.json (or an override) holds what we do not know or cannot compute."""


class CheckpointError(InputError):
    """A weight file is missing, damaged, not what its name says, or does not fit the model."""


class DataError(InputError):
    """A dataset is missing, empty, unreadable, or holds a record that cannot be used."""


class TrainingError(RuntimeError):
    """A run cannot go on: its loss is not finite, its disk is full, none of its checkpoints can be read."""
