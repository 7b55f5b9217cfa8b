"""Where arrays live: the device mesh and the rules from logical axes to mesh axes. Knows nothing of models."""

from jaxformers.parallel.mesh import MeshConfig, activate, make_mesh, shard, sharding_for, specification

__all__ = ["MeshConfig", "activate", "make_mesh", "shard", "sharding_for", "specification"]
