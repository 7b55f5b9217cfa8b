"""What a program's text says of its cost: programs compiled here, whose costs are known, and text as TPUs' compiler writes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxformers.parallel import costs as hlo

PEAK, BANDWIDTH = 1e12, 1e11


def costs_of(function, *arguments, **options):
    return hlo.costs(jax.jit(function, **options).lower(*arguments).compile().as_text(), PEAK, BANDWIDTH)


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_loop_counts_as_often_as_it_runs():
    def layers(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    costs = costs_of(layers, floats(16, 32), floats(7, 32, 32))
    assert costs.flops == 7 * 2 * 16 * 32 * 32
    assert costs.unread_loops == 0


def test_batched_products():
    costs = costs_of(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), floats(3, 4, 5), floats(3, 5, 6))
    assert costs.flops == 2 * 3 * 4 * 5 * 6


@pytest.mark.parametrize(
    ("kind", "target", "sent"),
    [("all-reduce", PartitionSpec(), 2 * 7 / 8 * 4 * 16), ("all-gather", None, 7 / 8 * 4 * 64 * 16)],
)
def test_what_goes_between_devices(kind, target, sent):
    mesh = Mesh(np.array(jax.devices()), ("all",))
    x = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("all")))
    function = (lambda x: x.sum(0)) if target is not None else (lambda x: x * 2)
    costs = costs_of(function, x, out_shardings=NamedSharding(mesh, PartitionSpec()))
    (found,) = costs.collectives
    assert (found.kind, found.group, found.count, found.sent) == (kind, 8, 1, sent)
    assert costs.sent == sent


TPU = """HloModule jit_step, is_scheduled=true

%fused (param_0: bf16[12,64,64], param_1: s32[], param_2: bf16[8,64]) -> bf16[8,64] {
  %param_0 = bf16[12,64,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = s32[]{:T(128)} parameter(1)
  %param_2 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%param_0, %param_1, %zero, %zero), dynamic_slice_sizes={1,64,64}
  %bitcast = bf16[64,64]{1,0:T(8,128)(2,1)} bitcast(%slice)
  ROOT %product = bf16[8,64]{1,0:T(8,128)(2,1)} convolution(%param_2, %bitcast), dim_labels=bf_io->bf
}

%body (state: (s32[], bf16[8,64], bf16[12,64,64])) -> (s32[], bf16[8,64], bf16[12,64,64]) {
  %state = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/bf16[12,64,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=1
  %weights = bf16[12,64,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=2
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%count, %one)
  %after = s32[]{:T(128)} add(%next, %one)
  %y = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} fusion(%weights, %count, %x), kind=kOutput, calls=%fused
  %sum = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-reduce(%y), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%add
  ROOT %result = (s32[]{:T(128)}, bf16[8,64]{1,0}, bf16[12,64,64]{2,1,0}) tuple(%after, %sum, %weights)
}

%condition (state.1: (s32[], bf16[8,64], bf16[12,64,64])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, bf16[8,64]{1,0:T(8,128)(2,1)S(1)}, bf16[12,64,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %count.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %limit = s32[]{:T(128)} constant(12)
  ROOT %less = pred[]{:T(512)} compare(%count.1, %limit), direction=LT
}

ENTRY %main (a: bf16[8,64], w: bf16[12,64,64]) -> bf16[8,64] {
  %a = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[12,64,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %begin = s32[]{:T(128)} constant(0)
  %copy-start = (bf16[8,64]{1,0:T(8,128)(2,1)S(1)}, bf16[8,64]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %tuple = (s32[]{:T(128)}, bf16[8,64]{1,0}, bf16[12,64,64]{2,1,0}) tuple(%begin, %copy-done, %w)
  %loop = (s32[]{:T(128)}, bf16[8,64]{1,0}, bf16[12,64,64]{2,1,0}) while(%tuple), condition=%condition, body=%body
  ROOT %end = bf16[8,64]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
}
"""


def test_a_program_as_the_tpu_compiler_writes_it():
    costs = hlo.costs(TPU, PEAK, BANDWIDTH)
    turns = 6  # the counter rises by two, up to twelve
    assert costs.unread_loops == 0
    assert costs.flops == turns * 2 * 8 * 64 * 64
    # The copy into the core's memory; in each turn one layer's weights, and the counter: looked at, and twice added to.
    assert costs.moved == 2 * 8 * 64 + turns * (2 * 64 * 64 + 4 + 2 * 12)
    assert costs.local_seconds == pytest.approx(costs.moved / BANDWIDTH)
    (sum_,) = costs.collectives
    assert (sum_.kind, sum_.group, sum_.count) == ("all-reduce", 4, turns)
    assert sum_.sent == turns * 2 * 3 / 4 * 2 * 8 * 64


def test_a_loop_whose_length_is_not_written_down_is_told():
    costs = hlo.costs(TPU.replace("direction=LT", "direction=NE"), PEAK, BANDWIDTH)
    assert costs.unread_loops == 1
    assert costs.flops == 2 * 8 * 64 * 64


def test_a_loop_that_may_end_early_counts_as_often_as_it_can_run():
    tests = """  %less = pred[]{:T(512)} compare(%count.1, %limit), direction=LT
  %wanted = s32[]{:T(128)} get-tuple-element(%state.1), index=3
  %early = pred[]{:T(512)} compare(%count.1, %wanted), direction=LT
  ROOT %both = pred[]{:T(512)} and(%less, %early)"""
    text = TPU.replace("  ROOT %less = pred[]{:T(512)} compare(%count.1, %limit), direction=LT", tests)
    costs = hlo.costs(text, PEAK, BANDWIDTH)
    assert (costs.bounded_loops, costs.unread_loops) == (1, 0)
    assert costs.flops == 6 * 2 * 8 * 64 * 64


@pytest.mark.parametrize(("kernel", "products"), [("fwd_segmented_residuals", 2), ("dq", 3), ("dkv_no_residuals", 4)])
def test_a_kernel_of_attention_that_does_not_say_what_it_costs(kernel, products):
    text = f"""
ENTRY %main (a: s8[1,4], q: bf16[8,4,256,128], k: bf16[8,2,512,128]) -> bf16[8,4,256,128] {{
  %a = s8[1,4]{{1,0}} parameter(0)
  %q = bf16[8,4,256,128]{{3,2,1,0}} parameter(1)
  %k = bf16[8,2,512,128]{{3,2,1,0}} parameter(2)
  ROOT %splash_mha_{kernel}.1 = bf16[8,4,256,128]{{3,2,1,0}} custom-call(%a, %q, %k, %k), custom_call_target="tpu_custom_call"
}}
"""
    costs = hlo.costs(text, PEAK, BANDWIDTH)
    assert costs.unread_kernels == 0
    assert costs.flops == products * 2 * 8 * 4 * 256 * 512 * 128
    assert costs.moved == 4 + 2 * (2 * 8 * 4 * 256 * 128 + 2 * 8 * 2 * 512 * 128)
    assert hlo.costs(text.replace("splash_mha", "another"), PEAK, BANDWIDTH).unread_kernels == 1
    one_row = hlo.costs(text.replace("[8,", "[").replace("{3,2,1,0}", "{2,1,0}"), PEAK, BANDWIDTH)
    assert one_row.flops == costs.flops / 8


@pytest.mark.parametrize(
    ("left", "right", "out", "window", "labels", "flops"),
    [
        # a product over heads: BLD,DHK->BLHK
        ("32,128,768,1", "768,12,64,1", "32,128,12,64", "size=1x12 pad=0_0x11_11 rhs_reversal=0x1", "0bf1_i1o0->0b1f",
         2 * 32 * 128 * 768 * 12 * 64),
        # one for each text and head: BLHK,BSHK->BHLS
        ("32,128,12,64", "32,128,12,64", "32,12,128,128", "size=32x12 stride=31x11 lhs_dilate=32x12", "0b1f_0o1i->01bf",
         2 * 32 * 12 * 128 * 128 * 64),
    ],
)  # fmt: skip
def test_products_that_are_written_as_convolutions(left, right, out, window, labels, flops):
    text = f"""
ENTRY %main (a: bf16[{left}], b: bf16[{right}]) -> bf16[{out}] {{
  %a = bf16[{left}]{{3,2,1,0}} parameter(0)
  %b = bf16[{right}]{{3,2,1,0}} parameter(1)
  ROOT %c = bf16[{out}]{{3,2,1,0}} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""
    assert hlo.costs(text, PEAK, BANDWIDTH).flops == flops


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[4,16]<=[16,4]T(1,0)", 16),
        ("replica_groups=mesh['axis_0'=1,'axis_1'=64] {'axis_1'}", 64),
        ("replica_groups=mesh['axis_0'=16,'axis_1'=4] {'axis_0','axis_1'}", 64),
        ("replica_groups=mesh['axis_0'=16] {'axis_0':(1)8}", 8),
        ("replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=16], device_ids=([16,4]T(1,0)) {'axis_2'}", 16),
    ],
)
def test_how_many_share_a_collective(groups, size):
    sum_ = f"all-reduce(%a), {groups}, use_global_device_ids=true, to_apply=%add"
    text = f"""
ENTRY %main (a: f32[10]) -> f32[10] {{
  %a = f32[10]{{0}} parameter(0)
  ROOT %b = f32[10]{{0}} {sum_}
}}
"""
    (found,) = hlo.costs(text, PEAK, BANDWIDTH).collectives
    assert found.group == size
