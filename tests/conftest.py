"""For all suites: no test ever meets a real account or a proxy."""

from tests.local.isolation import forget_the_world

forget_the_world()
