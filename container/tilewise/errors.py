class UserError(Exception):
    """Something that the user can fix: a hyperparameter, a channel, a file, a record.

    The message names it and says what to do, in one sentence. SageMaker shows it as ``ClientError: …``.
    """
