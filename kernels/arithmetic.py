"""What every kernel computes for a tile of pairs: rounding, products, mixtures, coefficients."""

import triton
import triton.language as tl


# Compile-time readers of fastmmd.kernels.plan.Layers.
@triton.constexpr_function
def count(LAYERS):
    return len(LAYERS.mixtures)


@triton.constexpr_function
def gaussians(LAYERS, layer):
    return len(LAYERS.mixtures[layer].scales)


@triton.constexpr_function
def scale(LAYERS, layer, q):
    return LAYERS.mixtures[layer].scales[q]


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


@triton.jit
def exact(numbers, index: tl.constexpr):
    """A number of fastmmd.kernels.plan in fp64. Python floats reach a kernel as fp32; each is sent as two of them."""
    return tl.full((), numbers[2 * index], tl.float64) + tl.full((), numbers[2 * index + 1], tl.float64)


@triton.jit
def rounded(x, FORMAT: tl.constexpr):
    """`x` with the digits that a product in FORMAT sees, so that norms and row sums see the same ones."""
    if FORMAT == "tf32":
        # To nearest, ties away. NaN goes round it: adding to its pattern could carry into the sign.
        bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    elif FORMAT == "bf16":
        return x.to(tl.bfloat16).to(tl.float32)
    else:
        return x


@triton.jit
def product(a, b, total, FORMAT: tl.constexpr):
    """``total + a @ b``, operands in FORMAT, accumulated in `total`'s dtype."""
    if FORMAT == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    else:
        return tl.dot(a, b, total, input_precision=FORMAT, out_dtype=total.dtype)


@triton.jit
def mixture(distances, bandwidth, noise, layer: tl.constexpr, LAYERS: tl.constexpr):
    """``sum_q w_q exp(-D / (scale_q B))`` of a layer and minus its derivative by D.

    `bandwidth`, `noise`: 0-d fp64. A bandwidth of 0 stands for the limit: 1 at distances up to `noise`, 0 beyond, slope
    0. Below 0: NaN.
    """
    limit = bandwidth == 0
    rate = (1 / tl.where(limit, 1.0, tl.where(bandwidth < 0, float("nan"), bandwidth))).to(distances.dtype)
    kernel = tl.zeros_like(distances)
    slope = tl.zeros_like(distances)
    value = tl.zeros_like(distances)
    for q in tl.static_range(gaussians(LAYERS, layer)):
        if is_square(LAYERS, layer, q):
            value = value * value
        else:
            value = tl.exp(distances * (-rate / scale(LAYERS, layer, q)))
        kernel += weight(LAYERS, layer, q) * value
        slope += (rate * (weight(LAYERS, layer, q) / scale(LAYERS, layer, q))) * value
    one = tl.full((), at_zero(LAYERS, layer), distances.dtype)
    at_limit = tl.where(distances <= noise.to(distances.dtype), one, 0.0)
    return tl.where(limit, at_limit, kernel), tl.where(limit, 0.0, slope)


@triton.jit
def mixtures(distances, bandwidths, noises, LAYERS: tl.constexpr):
    """`mixture` of every layer: two tuples."""
    kernels = ()
    slopes = ()
    for l in tl.static_range(count(LAYERS)):
        kernel, slope = mixture(distances[l], bandwidths[l], noises[l], l, LAYERS)
        kernels = kernels + (kernel,)
        slopes = slopes + (slope,)
    return kernels, slopes


@triton.jit
def joint_kernel(kernels, LAYERS: tl.constexpr):
    value = kernels[0]
    for l in tl.static_range(1, count(LAYERS)):
        value = value * kernels[l]
    return value


@triton.jit
def coefficients(layer: tl.constexpr, pair_weight, kernels, slopes, numbers, LAYERS: tl.constexpr):
    """``pair_weight * (joint prod_{l' != l} k_l' + marginal_l) * slope_l`` (docs/mathematics.md)."""
    dtype = slopes[layer].dtype
    others = tl.zeros_like(slopes[layer]) + exact(numbers, 4).to(dtype)
    for l in tl.static_range(count(LAYERS)):
        if l != layer:
            others = others * kernels[l]
    return pair_weight.to(dtype) * (others + exact(numbers, 5 + layer).to(dtype)) * slopes[layer]


@triton.jit
def coefficients_of(own, pair_weight, kernels, slopes, numbers, LAYERS: tl.constexpr):
    """`coefficients` of a layer that is known at run time only."""
    dtype = kernels[0].dtype
    others = tl.zeros_like(kernels[0]) + exact(numbers, 4).to(dtype)
    slope = tl.zeros_like(kernels[0])
    marginal = tl.zeros((), dtype)
    for l in tl.static_range(count(LAYERS)):
        others = others * tl.where(own == l, 1.0, kernels[l])
        slope = tl.where(own == l, slopes[l], slope)
        marginal = tl.where(own == l, exact(numbers, 5 + l).to(dtype), marginal)
    return pair_weight.to(dtype) * (others + marginal) * slope


@triton.jit
def bandwidth_and_noise(layer: tl.constexpr, mean, given, numbers, dtype: tl.constexpr, LAYERS: tl.constexpr):
    """B of a layer, fp64, and the round-off of its distances. `mean`: mean squared distance of the pooled rows, fp64;
    `given`: pointer to bandwidths [L], or None."""
    if follows_mean(LAYERS, layer):
        base = mean
    elif given is not None:
        base = tl.load(given + layer)
        base = tl.where((base == 0) & (mean != mean), mean, base)  # the limit at 0 compares, and would lose a NaN
    else:
        base = 1.0 + 0.0 * mean
    epsilon: tl.constexpr = 2.3e-16 if dtype == tl.float64 else 1.2e-7
    return exact(numbers, 5 + count(LAYERS) + layer) * base, 64 * epsilon * mean


@triton.jit
def weight_of_pair(row_is_source, column_is_source, numbers):
    """Weight of an ordered pair: alpha, beta, or gamma / 2 across domains; fp64."""
    same = tl.where(row_is_source, exact(numbers, 0), exact(numbers, 1))
    return tl.where(row_is_source == column_is_source, same, 0.5 * exact(numbers, 2))
