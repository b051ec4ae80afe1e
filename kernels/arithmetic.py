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
def slope_factor(LAYERS, layer, q):
    return LAYERS.mixtures[layer].slope_factors[q]


@triton.constexpr_function
def is_square(LAYERS, layer, q):
    return LAYERS.mixtures[layer].squares[q]


@triton.constexpr_function
def slope_scale(LAYERS, layer):
    return LAYERS.mixtures[layer].slope_scale


@triton.constexpr_function
def follows_mean(LAYERS, layer):
    return LAYERS.mixtures[layer].follows_mean


@triton.constexpr_function
def at_zero(LAYERS, layer):
    return LAYERS.mixtures[layer].at_zero


@triton.constexpr_function
def epsilon(dtype):
    return 2.3e-16 if dtype == tl.float64 else 1.2e-7


@triton.constexpr_function
def smallest_width(dtype):
    """Whose reciprocal is finite."""
    return 1e-300 if dtype == tl.float64 else 1e-37


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
def operand(b_x, FORMAT: tl.constexpr):
    """`b_x` as products in FORMAT take it; two products of it see the same digits."""
    if FORMAT == "bf16":
        return b_x.to(tl.bfloat16)
    elif FORMAT == "tf32":
        return tl.fma(b_x, -8192.0, b_x * 8193.0)  # Veltkamp's splitting: two instructions, and NaN stays NaN
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
def lost_width(tolerance):
    """A width beside which every distance above the tolerance is far."""
    return tolerance * 9.5367431640625e-07  # 2^-20


@triton.jit
def rate_and_slope(layer: tl.constexpr, bandwidth, tolerance, narrowest, DTYPE: tl.constexpr, LAYERS: tl.constexpr):
    """rate, shift and slope of a layer, 0-d fp64: its broadest Gaussian at distance D is ``2^min(shift - rate D, 0)``,
    and `mixture`'s slope times `slope` is minus the derivative by D.

    A bandwidth of 0 stands for its limit: 1 at distances up to the tolerance, which `shift` moves to 0, 0 beyond, slope
    0. Below 0: NaN. No width is below `narrowest`, nor has an infinite reciprocal in DTYPE.
    """
    broadest = tl.full((), multiplier(LAYERS, layer, 0), tl.float64)
    limit = bandwidth == 0
    width = tl.where(bandwidth < 0, float("nan"), broadest * bandwidth)
    narrowest = tl.where(limit, lost_width(tolerance), narrowest)
    width = tl.where(width < narrowest, narrowest, width)
    width = tl.where(width < smallest_width(DTYPE), smallest_width(DTYPE), width)
    rate = 1.4426950408889634 / width
    slope = tl.where(limit, 0.0, slope_scale(LAYERS, layer) * broadest / width)
    return rate, tl.where(limit, tolerance * rate, 0.0), slope


@triton.jit
def mixture(b_exponents, layer: tl.constexpr, LAYERS: tl.constexpr):
    """``sum_q weight_q 2^exponent_q``, and the same with ``slope_factor_q`` for ``weight_q``.

    `b_exponents`: of the broadest Gaussian, at most 0. One exponential for Gaussians each twice as narrow as the last.
    """
    b_value = tl.exp2(b_exponents)
    b_kernel = b_value * weight(LAYERS, layer, 0)
    b_slope = b_value * slope_factor(LAYERS, layer, 0)
    for q in tl.static_range(1, gaussians(LAYERS, layer)):
        if is_square(LAYERS, layer, q):
            b_value = b_value * b_value
        else:
            b_value = tl.exp2(b_exponents * (multiplier(LAYERS, layer, 0) / multiplier(LAYERS, layer, q)))
        b_kernel += weight(LAYERS, layer, q) * b_value
        b_slope += slope_factor(LAYERS, layer, q) * b_value
    return b_kernel, b_slope


@triton.jit
def mixtures(b_exponents, LAYERS: tl.constexpr):
    """`mixture` of every layer: two tuples."""
    b_kernels = ()
    b_slopes = ()
    for l in tl.static_range(count(LAYERS)):
        b_kernel, b_slope = mixture(b_exponents[l], l, LAYERS)
        b_kernels = b_kernels + (b_kernel,)
        b_slopes = b_slopes + (b_slope,)
    return b_kernels, b_slopes


@triton.jit
def exponents(b_inner, b_row_exponents, b_column_exponents, twice_rate):
    """Of a layer's broadest Gaussian, from inner products and the norms' shares (kernels/pack.py)."""
    b_exponents = b_inner * twice_rate + (b_row_exponents[:, None] + b_column_exponents[None, :])
    return tl.minimum(b_exponents, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def without_diagonal(b_exponents, row, column, LAYERS: tl.constexpr):
    """No row is paired with itself."""
    b_others = ()
    for l in tl.static_range(count(LAYERS)):
        b_others = b_others + (tl.where(row[:, None] == column[None, :], float("-inf"), b_exponents[l]),)
    return b_others


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
def whole_kernel(b_kernels, terms_ptr, LAYERS: tl.constexpr):  # [1 + L]
    """K of the whole loss, joint and marginal terms together."""
    b_whole = tl.load(terms_ptr) * term_values(0, b_kernels, LAYERS)
    for l in tl.static_range(count(LAYERS)):
        b_whole += tl.load(terms_ptr + 1 + l) * b_kernels[l]
    return b_whole


@triton.jit
def outer_products(
    w_ptr,  # [COLUMNS, padded rows], at the first row of a tile
    wa_ptr,  # likewise, at its first column
    padded_rows,
    row,  # of the tile, from 0
    column,
    COLUMNS: tl.constexpr,
):
    """``W_i . (W A)_j``: the weights of pairs of a form of few columns (kernels/form.py). Pointers are moved to
    the tile by the caller, as scalars: moved as tensors they cost fused 600 spills per round on sm_80 (Triton 3.8)."""
    b_weights = tl.load(w_ptr + row)[:, None] * tl.load(wa_ptr + column)[None, :]
    for c in tl.static_range(1, COLUMNS):
        b_w, b_wa = tl.load(w_ptr + c * padded_rows + row), tl.load(wa_ptr + c * padded_rows + column)
        b_weights += b_w[:, None] * b_wa[None, :]
    return b_weights


@triton.jit
def weighted_slopes(b_slopes, b_weights, LAYERS: tl.constexpr):
    """Slopes of pairs that have weights of their own, for `coefficients`."""
    b_weighted = ()
    for l in tl.static_range(count(LAYERS)):
        b_weighted = b_weighted + (b_slopes[l] * b_weights,)
    return b_weighted


@triton.jit
def weight_of_pair(row_is_source, column_is_source, numbers):
    """Weight of an ordered pair: alpha, beta, or gamma / 2 across domains; 0-d fp64."""
    same = tl.where(row_is_source, exact(numbers, region_weight(0)), exact(numbers, region_weight(1)))
    return tl.where(row_is_source == column_is_source, same, 0.5 * exact(numbers, region_weight(2)))


@triton.jit
def coefficient_factors(pair_weight, slopes, numbers, DTYPE: tl.constexpr, LAYERS: tl.constexpr):
    """What every pair of one weight shares: two tuples of L numbers, for `coefficients`."""
    joints, marginals = (), ()
    for l in tl.static_range(count(LAYERS)):
        scale = pair_weight * slopes[l]
        joints = joints + ((scale * exact(numbers, term_weight(0))).to(DTYPE),)
        marginals = marginals + ((scale * exact(numbers, term_weight(1 + l))).to(DTYPE),)
    return joints, marginals


@triton.jit
def load_factors(factors_ptr, region, LAYERS: tl.constexpr):  # [3, L, 2]
    """`coefficient_factors` of a region, as fastmmd.kernels.pack has stored them."""
    joints, marginals = (), ()
    for l in tl.static_range(count(LAYERS)):
        p_factors = factors_ptr + (region * count(LAYERS) + l) * 2
        joints, marginals = joints + (tl.load(p_factors),), marginals + (tl.load(p_factors + 1),)
    return joints, marginals


@triton.jit
def coefficients(layer: tl.constexpr, b_kernels, b_slopes, joints, marginals, LAYERS: tl.constexpr):
    """``(joint prod_{l' != l} k_l' + marginal_l) * slope_l``, factors as `coefficient_factors` has them
    (docs/mathematics.md)."""
    others = joints[layer]
    for l in tl.static_range(count(LAYERS)):
        if l != layer:
            others = others * b_kernels[l]
    return (others + marginals[layer]) * b_slopes[layer]


@triton.jit
def dynamic_coefficients(layer, b_kernels, b_slopes, joints, marginals, LAYERS: tl.constexpr):
    """`coefficients` of a layer that is known at run time only."""
    joint, marginal, b_slope = joints[0], marginals[0], b_slopes[0]
    for l in tl.static_range(1, count(LAYERS)):
        joint = tl.where(layer == l, joints[l], joint)
        marginal = tl.where(layer == l, marginals[l], marginal)
        b_slope = tl.where(layer == l, b_slopes[l], b_slope)
    others = joint
    for l in tl.static_range(count(LAYERS)):
        others = others * tl.where(layer == l, 1.0, b_kernels[l])
    return (others + marginal) * b_slope
