"""Projects whose suite asks for the highest rate within an SLO, and the engine that they are measured on."""

from projects import Project

ENGINE = "fake:launch_noise=0.002,seed=1,level=100,knee=4"
SETTINGS = """
[tool.slmperf]
traffic_s = {traffic_s}
max_launches = 8
order_seed = 1

[tool.pytest.ini_options]
filterwarnings = ["error"]
"""


def project_in(folder, suite, *, traffic_s):
    """A project with this suite, whose windows last for so many seconds."""
    project = Project(folder)
    project.write("pyproject.toml", SETTINGS.format(traffic_s=traffic_s))
    project.write("test_suite.py", suite)
    return project
