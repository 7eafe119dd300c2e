"""What the demo and the tests call to have the project's present source in the cluster."""

from sandbox import bringing_up, namespace, project_images
from sandbox.errors import SandboxError
from sandbox.rules import Plan


def build_and_load() -> dict[str, str]:
    """Builds both images if anything changed, loads them into the sandbox's cluster; returns their names by target.

    Works inside the sandbox and outside. Raises SandboxError when there is no sandbox to load them into, or when a
    build fails; the error says where its log is.
    """
    if not namespace.inside() and namespace.current() is None:
        raise SandboxError("There is no sandbox to load the images into; start it with `python -m sandbox up`.")
    bringing_up.bring_up(Plan(start=(project_images.NAME,)))
    return project_images.names()
