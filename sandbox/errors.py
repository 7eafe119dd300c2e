"""The one error of the sandbox: a sentence that names the cause and the way out, shown without a traceback."""


class SandboxError(Exception):
    """Something the person at the keyboard can do something about."""
