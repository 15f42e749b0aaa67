"""The tasks of this site: functions with @task before them."""
from zope.interface import Interface
from zope.schema import TextLine

from lovely.remotetask.task import task


class IGreeting(Interface):
    """What a job for `greet` is given; anything else is refused when the job is added."""

    name = TextLine()


@task(inputSchema=IGreeting, timeLimit=60)
def greet(input):
    """Return a greeting."""
    return f'Hello, {input["name"]}!'
