"""Names of routes, and what belongs to them."""

import pytest

from bench import routes, values


@pytest.mark.parametrize("name", routes.configs())
def test_a_config_belongs_to_the_backend_and_the_route_of_its_name(name):
    config = routes.configs()[name]
    assert routes.backend_of(config) == routes.backend_of_name(name)
    assert name.split("-")[1].rstrip("0123456789") == routes.route_of(config)


def test_every_route_of_a_backend_has_a_config():
    named = {(routes.backend_of(config), routes.route_of(config)) for config in routes.configs().values()}
    assert {route for backend, route in named if backend == "cuda"} == set(routes.ROUTES)
    assert {backend for backend, _ in named} <= set(routes.BACKENDS)


def test_names_are_unique_and_backends_that_compile_nothing_come_first():
    names = routes.names(values.BACKENDS)
    assert len(set(names)) == len(names)
    backends = [routes.backend_of_name(name) for name in names]
    assert backends == sorted(backends, key=("cuda", "torch", "triton", "cpu").index)


def test_a_config_is_written_as_its_launch_rules_write_it():
    config = routes.CUDA_CONFIGS["cuda-small"]
    assert routes.source_of(config) == "small.Config(part_features=64, chunk=32, overlap=True)"
