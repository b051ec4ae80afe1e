"""What every kernel computes for a tile of pairs: rounding, products, mixtures, coefficients."""

import triton
import triton.language as tl


# Compile-time readers of fastmmd.kernels.plan.Layers.
@triton.constexpr_function
def count(LAYERS):
    return len(LAYERS.mixtures)


@triton.constexpr_function
def gaussians(LAYERS, layer):
    return len(LAYERS.mixtures[layer].multipliers)


@triton.constexpr_function
def multiplier(LAYERS, layer, q):
    return LAYERS.mixtures[layer].multipliers[q]


@triton.constexpr_function
def weight(LAYERS, layer, q):
    return LAYERS.mixtures[layer].weights[q]


@triton.constexpr_function
def is_square(LAYERS, layer, q):
    return LAYERS.mixtures[layer].squares[q]


@triton.constexpr_function
def follows_mean(LAYERS, layer):
    return LAYERS.mixtures[layer].follows_mean


@triton.constexpr_function
def at_zero(LAYERS, layer):
    return LAYERS.mixtures[layer].at_zero


@triton.constexpr_function
def epsilon(dtype):
    return 2.3e-16 if dtype == tl.float64 else 1.2e-7


# Positions in fastmmd.kernels.plan.Plan.numbers. Functions, since every launch compares a module's constants with what
# they were when the kernel was compiled.
@triton.constexpr_function
def region_weight(region):
    """alpha, beta, gamma."""
    return region


@triton.constexpr_function
def diagonal_weight():
    return 3


@triton.constexpr_function
def term_weight(term):
    """joint, or a layer's marginal."""
    return 4 + term


@triton.constexpr_function
def bandwidth_scale(LAYERS, layer):
    return 5 + len(LAYERS.mixtures) + layer


@triton.jit
def exact(numbers, position: tl.constexpr):
    """A number of fastmmd.kernels.plan in fp64. Python floats reach a kernel as fp32; each is sent as two of them."""
    return tl.full((), numbers[2 * position], tl.float64) + tl.full((), numbers[2 * position + 1], tl.float64)


@triton.jit
def rounded(b_x, FORMAT: tl.constexpr):
    """`b_x` with the digits that a product in FORMAT sees, so that norms and row sums see the same ones."""
    if FORMAT == "tf32":
        # To nearest, ties away. NaN goes round it: adding to its pattern could carry into the sign.
        b_bits = (b_x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        return tl.where(b_x == b_x, b_bits.to(tl.float32, bitcast=True), b_x)
    elif FORMAT == "bf16":
        return b_x.to(tl.bfloat16).to(tl.float32)
    else:
        return b_x


@triton.jit
def product(b_a, b_b, b_total, FORMAT: tl.constexpr):
    """``total + a @ b``, operands in FORMAT, accumulated in the total's dtype."""
    if FORMAT == "bf16":
        return tl.dot(b_a.to(tl.bfloat16), b_b.to(tl.bfloat16), b_total)
    else:
        return tl.dot(b_a, b_b, b_total, input_precision=FORMAT, out_dtype=b_total.dtype)


@triton.jit
def mixture(b_distances, bandwidth, tolerance, layer: tl.constexpr, LAYERS: tl.constexpr):
    """``sum_q weight_q exp(-D / (multiplier_q B))`` of a layer and minus its derivative by D.

    `bandwidth`, `tolerance`: 0-d fp64. A bandwidth of 0 stands for the limit: 1 at distances up to `tolerance`, 0
    beyond, slope 0. Below 0: NaN.
    """
    limit = bandwidth == 0
    rate = (1 / tl.where(limit, 1.0, tl.where(bandwidth < 0, float("nan"), bandwidth))).to(b_distances.dtype)
    b_kernel = tl.zeros_like(b_distances)
    b_slope = tl.zeros_like(b_distances)
    b_value = tl.zeros_like(b_distances)
    for q in tl.static_range(gaussians(LAYERS, layer)):
        if is_square(LAYERS, layer, q):
            b_value = b_value * b_value
        else:
            b_value = tl.exp(b_distances * (-rate / multiplier(LAYERS, layer, q)))
        b_kernel += weight(LAYERS, layer, q) * b_value
        b_slope += (rate * (weight(LAYERS, layer, q) / multiplier(LAYERS, layer, q))) * b_value
    one = tl.full((), at_zero(LAYERS, layer), b_distances.dtype)
    b_limit = tl.where(b_distances <= tolerance.to(b_distances.dtype), one, 0.0)
    return tl.where(limit, b_limit, b_kernel), tl.where(limit, 0.0, b_slope)


@triton.jit
def mixtures(b_distances, bandwidths, tolerances, LAYERS: tl.constexpr):
    """`mixture` of every layer: two tuples."""
    b_kernels = ()
    b_slopes = ()
    for l in tl.static_range(count(LAYERS)):
        b_kernel, b_slope = mixture(b_distances[l], bandwidths[l], tolerances[l], l, LAYERS)
        b_kernels = b_kernels + (b_kernel,)
        b_slopes = b_slopes + (b_slope,)
    return b_kernels, b_slopes


@triton.jit
def term_values(term: tl.constexpr, b_kernels, LAYERS: tl.constexpr):
    """The product of all layers' kernels, or one layer's."""
    if term == 0:
        b_values = b_kernels[0]
        for l in tl.static_range(1, count(LAYERS)):
            b_values = b_values * b_kernels[l]
        return b_values
    else:
        return b_kernels[term - 1]


@triton.jit
def coefficients(layer: tl.constexpr, pair_weight, b_kernels, b_slopes, numbers, LAYERS: tl.constexpr):
    """``pair_weight * (joint prod_{l' != l} k_l' + marginal_l) * slope_l`` (docs/mathematics.md)."""
    dtype = b_slopes[layer].dtype
    b_others = tl.zeros_like(b_slopes[layer]) + exact(numbers, term_weight(0)).to(dtype)
    for l in tl.static_range(count(LAYERS)):
        if l != layer:
            b_others = b_others * b_kernels[l]
    return pair_weight.to(dtype) * (b_others + exact(numbers, term_weight(1 + layer)).to(dtype)) * b_slopes[layer]


@triton.jit
def dynamic_coefficients(layer, pair_weight, b_kernels, b_slopes, numbers, LAYERS: tl.constexpr):
    """`coefficients` of a layer that is known at run time only."""
    dtype = b_kernels[0].dtype
    b_others = tl.zeros_like(b_kernels[0]) + exact(numbers, term_weight(0)).to(dtype)
    b_slope = tl.zeros_like(b_kernels[0])
    marginal = tl.zeros((), dtype)
    for l in tl.static_range(count(LAYERS)):
        b_others = b_others * tl.where(layer == l, 1.0, b_kernels[l])
        b_slope = tl.where(layer == l, b_slopes[l], b_slope)
        marginal = tl.where(layer == l, exact(numbers, term_weight(1 + l)).to(dtype), marginal)
    return pair_weight.to(dtype) * (b_others + marginal) * b_slope


@triton.jit
def bandwidth_and_tolerance(
    layer: tl.constexpr,
    mean,  # squared distance of the pooled rows, 0-d fp64
    given_bandwidths_ptr,  # [L] fp64, or None
    numbers,
    DTYPE: tl.constexpr,
    LAYERS: tl.constexpr,
):
    """B of a layer, and the round-off of its distances: 0-d fp64."""
    if follows_mean(LAYERS, layer):
        base = mean
    elif given_bandwidths_ptr is not None:
        base = tl.load(given_bandwidths_ptr + layer)
        base = tl.where((base == 0) & (mean != mean), mean, base)  # the limit at 0 compares, and would lose a NaN
    else:
        base = 1.0 + 0.0 * mean
    return exact(numbers, bandwidth_scale(LAYERS, layer)) * base, 64 * epsilon(DTYPE) * mean


@triton.jit
def weight_of_pair(row_is_source, column_is_source, numbers):
    """Weight of an ordered pair: alpha, beta, or gamma / 2 across domains; 0-d fp64."""
    same = tl.where(row_is_source, exact(numbers, region_weight(0)), exact(numbers, region_weight(1)))
    return tl.where(row_is_source == column_is_source, same, 0.5 * exact(numbers, region_weight(2)))
