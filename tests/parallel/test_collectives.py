"""The reader of HLO text: kinds, bytes, groups and loops, of written text and of a program that is compiled here."""

import jax
import jax.numpy as jnp
import pytest

from jaxformers.errors import InputError
from jaxformers.parallel.collectives import Collective, collectives, volume
from jaxformers.parallel.mesh import MeshConfig, make_mesh

# Every form in which the compilers of CPU and TPU write them, around what is to be left out.
TEXT = """HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %ar = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add, metadata={op_name="jit(f)/sum"}
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %ar)
}

%all-reduce-scatter.1 (q: bf16[64]) -> bf16[16] {
  %q = bf16[64]{0} parameter(0)
  %r = bf16[64]{0} all-reduce(%q), channel_id=2, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %s = bf16[16]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={16}
}

%async (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  ROOT %a2a = f32[4,8]{1,0} all-to-all(%a), channel_id=3, replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}, dimensions={0}
}

%never (n: f32[4]) -> f32[4] {
  ROOT %ag = f32[4]{0} all-gather(%n), replica_groups={{0,1}}, dimensions={0}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %w = (s32[], f32[8]{0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %f = bf16[16]{0:T(1024)(128)(2,1)S(1)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %st = ((f32[4,8]{1,0}), f32[4,8]{1,0}, u32[]) async-start(%y), calls=%async
  %do = f32[4,8]{1,0} async-done(%st)
  %gs = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%z), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}
  %gd = f32[8,8]{1,0} all-gather-done(%gs)
  %rs = f32[2]{0} reduce-scatter(%z), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
  %ps = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%z), source_target_pairs={{0,1},{1,2},{2,0}}
  %pd = f32[5]{0} collective-permute-done(%ps)
  ROOT %two = (f32[], /*index=1*/pred[3]{0}) all-reduce(%u, %v), replica_groups={{0,1,2,3}}, to_apply=%add
}
"""


def test_every_form_is_read():
    found = {each.name: each for each in collectives(TEXT)}
    assert found == {
        "ar": Collective("all-reduce", ("f32",), 32, 2, 3, "ar", "jit(f)/sum"),
        "r": Collective("reduce-scatter", ("bf16",), 128, 4, 1, "r"),
        "a2a": Collective("all-to-all", ("f32",), 128, 2, 1, "a2a"),
        "gs": Collective("all-gather", ("f32",), 256, 4, 1, "gs"),
        "rs": Collective("reduce-scatter", ("f32",), 32, 4, 1, "rs"),
        "ps": Collective("collective-permute", ("f32",), 20, 3, 1, "ps"),
        "two": Collective("all-reduce", ("f32", "pred"), 7, 4, 1, "two"),
    }
    assert volume(found.values()) == {
        "all-reduce": 3 * 32 + 7, "reduce-scatter": 160, "all-to-all": 128, "all-gather": 256, "collective-permute": 20,
    }  # fmt: skip
    sent = {name: each.sent for name, each in found.items()}
    assert sent == {"ar": 96, "r": 96, "a2a": 64, "gs": 192, "rs": 24, "ps": 20, "two": 10.5}


def test_a_program_that_is_compiled_here():
    """Over four devices a sum of 3 × 8 floats in a loop of five, and a gathering of 4 × 6."""
    mesh = make_mesh(MeshConfig(data=4), jax.devices()[:4])

    def run(x):
        def one(total, _):
            return jax.lax.psum(total * x, "data") / 4, None

        return jax.lax.scan(one, x, None, 5)[0], jax.lax.all_gather(x[0, :6], "data")

    rows = jax.P(None, "data")
    function = jax.shard_map(run, mesh=mesh, in_specs=rows, out_specs=(rows, jax.P("data")), check_vma=False)
    text = jax.jit(function).lower(jnp.ones((3, 32))).compile().as_text()
    assert volume(collectives(text)) == {"all-reduce": 5 * 3 * 8 * 4, "all-gather": 4 * 6 * 4}
    assert {each.size for each in collectives(text)} == {4}


def test_what_is_no_program_is_refused():
    with pytest.raises(InputError, match="no text of a compiled program"):
        collectives("module @jit_step {}")
