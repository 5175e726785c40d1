"""Shows how a handler fails: whatever it raises becomes `error` in the response.

`code` of the exception is the error's code, without one it is FUNCTION_ERROR; what else the
exception carries becomes `details`. The stack goes to the logs, not to the caller.
"""


class ValidationError(Exception):
    code = "VALIDATION_ERROR"

    def __init__(self, message, field):
        super().__init__(message)
        self.field = field


def handler(ctx):
    email = ctx.input.get("email", "")
    if not email:
        raise ValidationError("Email is required", field="email")
    raise RuntimeError(f"could not reach the mail server for {email}")
