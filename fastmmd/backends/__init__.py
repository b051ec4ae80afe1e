"""Backends: each is a module with ``unavailable(device) -> str | None`` and

run(problem, sources, targets, bandwidths, needs_grad, precision) -> (loss, report, gradients)

    problem:      the static data (fastmmd.problem.Problem)
    sources:      one [n_source, d_l] tensor a layer, fp16, bf16, fp32 or fp64, on one device; never written. All are
                  computed in fp64 if any of them or of the targets is fp64, else in fp32: the computing dtype
    targets:      the same for the target
    bandwidths:   [L] fp64 on the same device (fp32 where it has no fp64), or None (ones)
    needs_grad:   2 L flags, sources first
    precision:    the least precise format that fp32 matrix products may use: "ieee" | "tf32x3" | "tf32" | "bf16";
                  None: what torch's own setting allows
    loss:         0-d, in the computing dtype
    report:       [1 + 2 L], same dtype: value of the product, of each layer, bandwidth of each layer
    gradients:    2 L tensors shaped like their inputs, in the computing dtype, None where not needed

Every backend is deterministic: the same inputs give the same bits.
"""
