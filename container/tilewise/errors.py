class UserError(Exception):
    """Something that the user can fix: a hyperparameter, a channel, a file, a record.

    The message names it and says what to do, in one sentence. SageMaker shows it as ``ClientError: …``.
    """


class OutOfMemoryError(UserError, MemoryError):
    """What is asked for does not fit into the memory that is left at the moment."""
